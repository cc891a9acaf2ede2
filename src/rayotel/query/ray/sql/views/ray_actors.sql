-- about: how many actors were in which state, minute by minute
-- note: Ray reports actors twice, and the two must not be added up: gcs counts every actor by the state of its life; executor, with the job, only whether a living one works. A restart that takes less than ten seconds is never seen here: see ray_actor_events.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target that reports it, else that one's address; for gcs the head
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target that reports it
-- column: reported_by: gcs or executor
-- column: actor: class of the actor
-- column: job_id: of its job; only from executor
-- column: state: ALIVE, DEAD, RESTARTING and so on; from executor ALIVE_IDLE or ALIVE_RUNNING_TASKS
-- column: actors: how many at the minute's last scrape
-- example: SELECT actor, state, max(actors) AS most FROM ray_actors WHERE reported_by = 'gcs' GROUP BY ALL ORDER BY ALL
-- needs: ray_cluster, ray_node, ray_node_from, ray_samples, ray_targets
CREATE VIEW ray_actors AS
SELECT minute, ray_cluster(cluster_key, cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       ray_node(instance_key, address_key) AS node,
       ray_node_from(instance_key, address_key) AS node_from,
       nullif(instance_key, '') AS instance,
       reported_by, actor, job_id, state, sum(last) AS actors
FROM (
  SELECT minute, instance_key, session_key, address_key, cluster_key, series_id,
         metric_Source AS reported_by,
         metric_label_Name AS actor, nullif(metric_JobId, '') AS job_id, metric_State AS state,
         arg_max(data_point_value, time_unix_nano) AS last
  FROM ray_samples
  WHERE metric_name = 'ray_actors'
  GROUP BY ALL
)
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
GROUP BY ALL
HAVING sum(last) > 0;

-- about: the jobs that were there, from events where they are kept, else from metrics
-- note: Metrics have only the age of a running job: its beginning is late by up to 25 seconds and its end by up to 30, its outcome unknown. A job that lived for less than a scrape may be missing. Ray's own counter of finished jobs is broken and not used.
-- column: time: when it began, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: id of the node where its driver runs; null from metrics
-- column: instance: always null
-- column: job_id: 8 hex digits
-- column: submission_id: of a job that was submitted; null from metrics
-- column: entrypoint: command of the driver; null from metrics
-- column: began: when it was created
-- column: ended: when it was over; null while it runs, or where that is not known
-- column: run_seconds: from began to ended, or to the last sample
-- column: status: as in ray_job_runs; from metrics RUNNING or ENDED
-- column: message: Ray's message about its end
-- column: is_internal: whether it is of Ray's own doing; null from metrics
-- column: source: events or metrics
-- example: SELECT cluster_id, job_id, status, run_seconds, source FROM ray_jobs ORDER BY began
-- needs: ray_cluster, ray_has_events, ray_job_over_seconds, ray_job_runs, ray_samples, ray_targets
CREATE VIEW ray_jobs AS
WITH aged AS (
  SELECT session_key, cluster_key, metric_JobId AS job_id, max(instance_key) AS instance_key,
         -- the head computes the age, a report later it is scraped: the earliest is the nearest
         min(time_unix_nano - to_milliseconds((1000 * data_point_value)::BIGINT)) AS began,
         max(time_unix_nano) AS last_seen
  FROM ray_samples
  WHERE metric_name = 'ray_job_duration_s' AND metric_JobId <> ''
    AND data_point_value BETWEEN 0 AND 1e9
  GROUP BY ALL
)
SELECT began AS time, ray_cluster(cluster_key, t.cluster_id) AS cluster_id,
       nullif(session_key, '') AS session, NULL::VARCHAR AS node, NULL::VARCHAR AS instance,
       job_id,
       NULL::VARCHAR AS submission_id, NULL::VARCHAR AS entrypoint, began,
       if(t.last_seen - a.last_seen > to_seconds(ray_job_over_seconds()),
          a.last_seen, NULL) AS ended,
       epoch(a.last_seen - began) AS run_seconds,
       if(ended IS NULL, 'RUNNING', 'ENDED') AS status,
       NULL::VARCHAR AS message, NULL::BOOLEAN AS is_internal, 'metrics' AS source
FROM aged AS a LEFT JOIN ray_targets AS t USING (session_key, instance_key)
WHERE NOT ray_has_events(session_key, [
  'DRIVER_JOB_DEFINITION_EVENT', 'DRIVER_JOB_LIFECYCLE_EVENT',
  'SUBMISSION_JOB_DEFINITION_EVENT', 'SUBMISSION_JOB_LIFECYCLE_EVENT'])
UNION ALL BY NAME
SELECT time, cluster_id, session, driver_node_id AS node, NULL::VARCHAR AS instance,
       job_id, submission_id, entrypoint, began, ended, run_seconds, status,
       message, is_internal, 'events' AS source
FROM ray_job_runs;

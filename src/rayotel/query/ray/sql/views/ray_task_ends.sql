-- about: task attempts that ended as Ray's metrics count them, minute by minute, of sessions whose task events are not kept
-- note: ray_tasks is a gauge of running totals per owner process: each rise counts once, and what was counted before the first scrape is history. Two owners on one node that run tasks of one name make it a lower bound. Where task events are kept, ray_task_attempts knows each attempt.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target of the owner, else the owner's address
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target of the owner
-- column: task: name of the task or actor method
-- column: state: FINISHED or FAILED
-- column: is_retry: whether these were tried before
-- column: attempts: how many
-- example: SELECT task, state, sum(attempts) AS attempts FROM ray_task_ends GROUP BY ALL ORDER BY attempts DESC
-- needs: metric_owner_increase, ray_cluster, ray_has_events, ray_is_internal, ray_node, ray_node_from, ray_targets, raymetrics
CREATE VIEW ray_task_ends AS
SELECT date_trunc('minute', time) AS minute, ray_cluster(cluster_key, t.cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       ray_node(instance_key, metric_NodeAddress) AS node,
       ray_node_from(instance_key, metric_NodeAddress) AS node_from,
       nullif(instance_key, '') AS instance,
       metric_label_Name AS task, metric_State AS state,
       coalesce(lower(metric_IsRetry) IN ('1', 'true'), false) AS is_retry,
       sum(increase)::BIGINT AS attempts
FROM (
  SELECT *, coalesce(metric_instance, '') AS instance_key,
         coalesce(metric_SessionName, '') AS session_key,
         coalesce(nullif(metric_cluster_id, ''), cluster_id, '') AS cluster_key
  FROM metric_owner_increase('raymetrics', 'ray_tasks')
  WHERE metric_State IN ('FINISHED', 'FAILED') AND NOT ray_is_internal(metric_label_Name)
    AND increase BETWEEN 0 AND 1e15  -- no count is beyond
    AND NOT ray_has_events(metric_SessionName, ['TASK_LIFECYCLE_EVENT'])
) AS i
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
GROUP BY ALL
HAVING sum(increase) > 0;

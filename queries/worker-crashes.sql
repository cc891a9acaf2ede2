-- question: Which worker processes ended unexpectedly, when, where, and what did they run?
-- note: A worker that crashed, or that the kernel killed, is SYSTEM_ERROR; one that Ray killed to save its node NODE_OUT_OF_MEMORY. A task's own exception ends no worker. From metrics each node counts by the name of what ran, which leaves out idle workers and those that die with their node; where no node counts, the head's number stands, without node and name.
-- parameter: limit = 1000: at most so many rows, the latest
-- column: minute: start of the minute, UTC, of the end; from metrics of the scrape that showed it
-- column: cluster_id: which cluster; see ray_targets
-- column: node: from events its node id; from metrics the scrape target, else the address
-- column: job_id: 8 hex digits; null from metrics
-- column: task: task or actor method that it last ran; null if unknown
-- column: reason: how it ended, Ray's word; null from metrics
-- column: workers: how many
-- column: example: beginning of Ray's message about one of them; null from metrics
-- column: source: events or metrics
WITH ended AS (  -- one may be reported more than once
  SELECT session, worker_id, min(time) AS time, max(cluster_id) AS cluster_id,
         max(node_id) AS node, max(job_id) AS job_id, arg_min(reason, time) AS reason,
         arg_min(message, time) AS message
  FROM ray_worker_events WHERE is_unexpected
  GROUP BY session, worker_id
),
ran AS (
  SELECT session AS of_session, worker_id AS of_worker_id,
         arg_max(task, coalesce(started, time)) AS task
  FROM ray_task_attempts WHERE worker_id IN (SELECT worker_id FROM ended)
  GROUP BY ALL
),
rises AS (
  SELECT 1 AS place, time, cluster_id, session, node, metric_label_Name AS task, increase
  FROM ray_increase('ray_node_manager_unexpected_worker_failure_total')
  UNION ALL
  SELECT 2, time, cluster_id, session, NULL, NULL, increase
  FROM ray_increase('ray_unintentional_worker_failures_total')
),
counted AS (  -- both count the same ends: the nodes report more of each
  FROM rises QUALIFY place = min(place) OVER (PARTITION BY session)
),
crashes AS (
  SELECT e.time, e.cluster_id, e.node, e.job_id, nullif(r.task, '') AS task, e.reason,
         1 AS workers, e.message, 'events' AS source
  FROM ended AS e
  LEFT JOIN ran AS r
    ON r.of_session IS NOT DISTINCT FROM e.session AND r.of_worker_id = e.worker_id
  UNION ALL
  SELECT time, cluster_id, node, NULL, task, NULL, increase, NULL, 'metrics'
  FROM counted
  WHERE increase > 0 AND NOT ray_has_events(session, ['WORKER_LIFECYCLE_EVENT'])
)
FROM (
  SELECT date_trunc('minute', time) AS minute, cluster_id, node, job_id, task, reason,
         sum(workers)::BIGINT AS workers,
         left(split_part(max(message), e'\n', 1), 200) AS example, source
  FROM crashes
  GROUP BY ALL
  ORDER BY minute DESC, cluster_id, node, job_id, task, reason
  LIMIT $limit::BIGINT
)
ORDER BY minute, cluster_id, node, job_id, task, reason

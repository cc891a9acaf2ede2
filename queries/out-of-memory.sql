-- question: Which tasks and actors were killed because memory ran out, when and where?
-- note: These are kills by Ray's own memory monitor. The kernel's kills look like crashes to Ray: see worker-crashes. Ray tries such a task again without counting, so one hungry task can be killed many times.
-- parameter: limit = 1000: at most so many rows, the latest
-- column: minute: start of the minute, UTC, of the kill; from metrics of the scrape that showed it
-- column: cluster_id: which cluster; see ray_targets
-- column: node: from events its node id; from metrics the scrape target, else the address
-- column: job_id: 8 hex digits; null from metrics
-- column: kind: task or actor; null if unknown
-- column: task: name of the task or actor method that ran; null if unknown
-- column: kills: how many
-- column: worker_memory_bytes: most memory of one of them at its end; null if unknown
-- column: example: beginning of Ray's message about one of them; null from metrics
-- column: source: events or metrics
WITH killed AS (
  SELECT session, worker_id, min(time) AS time, max(cluster_id) AS cluster_id,
         max(node_id) AS node_id, max(job_id) AS job_id,
         max(worker_memory_bytes) AS worker_memory_bytes, max(message) AS message
  FROM ray_worker_events WHERE state = 'DEAD' AND reason = 'NODE_OUT_OF_MEMORY'
  GROUP BY session, worker_id
),
ran AS (  -- what such a worker last ran, and what failed for memory on a worker without events
  SELECT session AS of_session, worker_id AS of_worker_id,
         coalesce(worker_id, task_id || attempt) AS place,
         max(coalesce(ended, started, time)) AS failed_at,
         arg_max(cluster_id, coalesce(started, time)) AS cluster_id,
         arg_max(job_id, coalesce(started, time)) AS job_id,
         arg_max(node_id, coalesce(started, time)) AS node_id,
         arg_max(task, coalesce(started, time)) AS task,
         arg_max(kind, coalesce(started, time)) AS kind,
         arg_max(error_message, coalesce(started, time))
           FILTER (error_type = 'OUT_OF_MEMORY') AS message,
         bool_or(error_type = 'OUT_OF_MEMORY') AS is_for_memory
  FROM ray_task_attempts
  WHERE error_type = 'OUT_OF_MEMORY' OR worker_id IN (SELECT worker_id FROM killed)
  GROUP BY ALL
),
kills AS (
  SELECT coalesce(k.time, r.failed_at) AS time, coalesce(k.cluster_id, r.cluster_id) AS cluster_id,
         coalesce(k.node_id, r.node_id) AS node, coalesce(k.job_id, r.job_id) AS job_id,
         CASE WHEN r.kind LIKE 'ACTOR%' THEN 'actor' WHEN r.kind IS NOT NULL THEN 'task' END
           AS kind,
         r.task, 1 AS kills, k.worker_memory_bytes,
         coalesce(k.message, r.message) AS message, 'events' AS source
  FROM killed AS k
  FULL JOIN ran AS r
    ON r.of_session IS NOT DISTINCT FROM k.session AND r.of_worker_id = k.worker_id
  WHERE k.worker_id IS NOT NULL OR r.is_for_memory
  UNION ALL
  SELECT time, cluster_id, node, NULL,
         CASE WHEN metric_label_Type LIKE '%ActorEviction%' THEN 'actor'
              WHEN metric_label_Type LIKE '%TaskEviction%' THEN 'task' END,
         metric_label_Name, increase, NULL, NULL, 'metrics'
  FROM ray_increase('ray_memory_manager_worker_eviction_total')
  WHERE increase > 0
    AND NOT ray_has_events(session, ['WORKER_LIFECYCLE_EVENT', 'TASK_LIFECYCLE_EVENT'])
)
FROM (
  SELECT date_trunc('minute', time) AS minute, cluster_id, node, job_id, kind, task,
         sum(kills)::BIGINT AS kills, max(worker_memory_bytes) AS worker_memory_bytes,
         left(max(message), 200) AS example, source
  FROM kills
  GROUP BY ALL
  ORDER BY minute DESC, cluster_id, node, job_id, task
  LIMIT $limit::BIGINT
)
ORDER BY minute, cluster_id, node, job_id, task

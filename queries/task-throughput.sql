-- question: How many task attempts finished and failed, by task and minute?
-- note: ray_tasks holds running totals of every process that submits tasks, for as long as it lives: adding samples up counts each attempt again with every scrape. Here each rise counts once. Where Ray's task events are kept, the numbers are from them, exact, and in the minute in which the attempt ended; from metrics it is the minute of the scrape that showed it, up to 25 seconds later, and what was counted before the first scrape is not seen.
-- parameter: task = %: only tasks whose name is like this SQL pattern
-- parameter: limit = 10000: at most so many rows, the latest
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: task: name of the task or actor method
-- column: finished_attempts: attempts that came to a good end in this minute
-- column: failed_attempts: attempts that failed in this minute
-- column: failed_pct: share of the failed, 0 to 100
-- column: source: events or metrics
WITH ended AS (
  SELECT minute, cluster_id, task, state, attempts, 'metrics' AS source
  FROM ray_task_ends
  UNION ALL
  SELECT date_trunc('minute', ended), cluster_id, task, state, 1, 'events'
  FROM ray_task_attempts
  WHERE state IN ('FINISHED', 'FAILED') AND ended IS NOT NULL
    AND NOT is_internal
    AND NOT ray_is_driver(task_id)
)
FROM (
  SELECT minute, cluster_id, task,
         coalesce(sum(attempts) FILTER (state = 'FINISHED'), 0)::BIGINT AS finished_attempts,
         coalesce(sum(attempts) FILTER (state = 'FAILED'), 0)::BIGINT AS failed_attempts,
         100 * failed_attempts / (finished_attempts + failed_attempts) AS failed_pct,
         source
  FROM ended
  WHERE coalesce(task, '') LIKE $task
  GROUP BY ALL
  ORDER BY minute DESC, cluster_id, task
  LIMIT $limit::BIGINT
)
ORDER BY minute, cluster_id, task

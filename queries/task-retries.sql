-- question: Which tasks were tried more than once, why, and what came of it?
-- note: Ray retries a task whose worker or node died, and one that raised only where its options say so; after an out-of-memory kill it tries again without counting. An actor that begins again is no retry: see actor-restarts. From metrics only the retries themselves can be counted, not the tasks behind them.
-- parameter: limit = 1000: at most so many rows, those with the most retries
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: job_id: 8 hex digits; null from metrics
-- column: task: name of the task or actor method
-- column: retried_tasks: tasks of this name that were tried more than once; null from metrics
-- column: attempts: all attempts of these tasks; null from metrics
-- column: retries: those after the first; from metrics the ones that ended
-- column: finally_ok: of these tasks, how many succeeded in the end
-- column: finally_failed: how many had failed with their last known attempt; null from metrics
-- column: most_attempts: most attempts of one task; null from metrics
-- column: reasons: why their attempts failed and how often; null from metrics
-- column: source: events or metrics
WITH attempts AS (
  SELECT *, max(attempt) OVER (PARTITION BY session, task_id) AS last_attempt
  FROM ray_task_attempts
  WHERE NOT is_internal
    AND NOT starts_with(task_id, repeat('f', 16))  -- makes an actor, also where its kind is not known
),
retried AS (
  SELECT cluster_id, session, job_id, task,
         count(DISTINCT task_id) AS retried_tasks, sum(last_attempt + 1) FILTER (is_final)
           AS attempts,
         sum(last_attempt) FILTER (is_final) AS retries,
         count(*) FILTER (is_final AND state = 'FINISHED') AS finally_ok,
         count(*) FILTER (is_final AND state = 'FAILED') AS finally_failed,
         max(last_attempt) + 1 AS most_attempts
  FROM (SELECT *, attempt = last_attempt AS is_final FROM attempts WHERE last_attempt > 0)
  GROUP BY ALL
),
reasons AS (
  SELECT session AS of_session, job_id AS of_job_id, task AS of_task,
         string_agg(reason || ' ' || times, ', ' ORDER BY times DESC, reason) AS reasons
  FROM (
    SELECT session, job_id, task, coalesce(error_type, 'unknown') AS reason, count(*) AS times
    FROM attempts WHERE last_attempt > 0 AND state = 'FAILED' GROUP BY ALL
  )
  GROUP BY ALL
),
found AS (
  SELECT cluster_id, session, job_id, task, retried_tasks::BIGINT AS retried_tasks,
         attempts::BIGINT AS attempts, retries::BIGINT AS retries, finally_ok, finally_failed,
         most_attempts, reasons, 'events' AS source
  FROM retried AS t
  LEFT JOIN reasons AS r
    ON r.of_session IS NOT DISTINCT FROM t.session AND r.of_job_id IS NOT DISTINCT FROM t.job_id
   AND r.of_task IS NOT DISTINCT FROM t.task
  UNION ALL
  SELECT cluster_id, session, NULL, task, NULL, NULL, sum(attempts)::BIGINT,
         coalesce(sum(attempts) FILTER (state = 'FINISHED'), 0)::BIGINT, NULL, NULL, NULL, 'metrics'
  FROM ray_task_ends WHERE is_retry
  GROUP BY ALL
)
FROM found
ORDER BY retries DESC, cluster_id, session, job_id, task
LIMIT $limit::BIGINT

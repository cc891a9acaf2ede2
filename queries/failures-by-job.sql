-- question: Which job had how many failed attempts, of which task, and why?
-- note: Ray's metrics never name the job of a failed task: the published query by JobId shows one nameless group. With Ray's events kept, every number here is exact; without them, job and reason are null and the numbers those of task-failures.
-- note: Attempts and tasks differ: a task that fails, is tried again and succeeds has a failed attempt and has not failed.
-- parameter: job = %: only jobs whose job_id or submission_id is like this SQL pattern
-- parameter: limit = 1000: at most so many rows, those with the most failures
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: job_id: 8 hex digits; null from metrics
-- column: submission_id: of a job that was submitted
-- column: task: name of the task or actor method
-- column: error_type: Ray's word for why they failed; null from metrics
-- column: failed_attempts: attempts that failed for this reason
-- column: failed_tasks: tasks whose last known attempt is one of them; null from metrics
-- column: first_at: when the first of them failed; from metrics the minute
-- column: last_at: when the last of them failed; from metrics the minute
-- column: example: the last one's error: of an exception its last line, else the first
-- column: source: events or metrics
WITH jobs AS (
  SELECT session AS job_session, job_id AS known_job_id, max(submission_id) AS submission_id
  FROM ray_job_runs WHERE job_id IS NOT NULL GROUP BY ALL
),
attempts AS (
  SELECT *, attempt = max(attempt) OVER (PARTITION BY session, task_id) AS is_last,
         trim(regexp_replace(error_message, '\x1b\[[0-9;]*m', '', 'g'), e' \n') AS message
  FROM ray_task_attempts
  WHERE NOT is_internal
),
failed AS (
  SELECT cluster_id, session, job_id, submission_id, task, error_type,
         count(*) AS failed_attempts, count(*) FILTER (is_last) AS failed_tasks,
         min(ended) AS first_at, max(ended) AS last_at,
         left(arg_max(if(error_type = 'TASK_EXECUTION_EXCEPTION',
                         regexp_extract(message, '[^\n]*$'), split_part(message, e'\n', 1)),
                      ended), 200) AS example,
         'events' AS source
  FROM attempts AS a
  LEFT JOIN jobs AS j
    ON j.job_session IS NOT DISTINCT FROM a.session AND j.known_job_id = a.job_id
  WHERE state = 'FAILED'
  GROUP BY ALL
  UNION ALL BY NAME
  SELECT cluster_id, session, NULL::VARCHAR AS job_id, NULL::VARCHAR AS submission_id, task,
         NULL::VARCHAR AS error_type, sum(failed_attempts)::BIGINT AS failed_attempts,
         NULL::BIGINT AS failed_tasks, min(minute) AS first_at, max(minute) AS last_at,
         NULL::VARCHAR AS example, 'metrics' AS source
  FROM ray_task_failures WHERE source = 'metrics'
  GROUP BY ALL
)
SELECT cluster_id, session, job_id, submission_id, task, error_type, failed_attempts, failed_tasks,
       first_at, last_at, example, source
FROM failed
WHERE coalesce(job_id, '') LIKE $job OR submission_id LIKE $job
ORDER BY failed_attempts DESC, cluster_id, session, job_id, task, error_type
LIMIT $limit::BIGINT

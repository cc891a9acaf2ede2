-- question: Which jobs ran, for how long, how did they end, and how much of them failed?
-- note: Of a driver Ray reports only that it finished: FINISHED is no success. Only a submission (ray job submit) has an outcome, and Ray 2.60 sends no events of submissions: failed_tasks counts its failures. From metrics its beginning is late by up to 25 seconds and its end by up to 30, and its outcome is not known at all. Ray's counter of finished jobs adds its own total up again with every report, and its gauge of running jobs counts one of Ray's own: neither is used here.
-- parameter: limit = 1000: at most so many jobs, the latest
-- column: began: when it was created
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: job_id: 8 hex digits; null for a submission whose driver never connected
-- column: submission_id: of a job that was submitted
-- column: entrypoint: command of the driver, its end; null from metrics
-- column: status: SUCCEEDED, FAILED or STOPPED of a submission; FINISHED of a driver; RUNNING; from metrics RUNNING or ENDED
-- column: ended: when it was over; null while it runs
-- column: run_seconds: from began to ended, or as far as is known
-- column: finished_attempts: attempts of its tasks that came to a good end; null from metrics
-- column: failed_attempts: attempts of its tasks that failed; null from metrics
-- column: failed_tasks: tasks whose last known attempt failed; null from metrics
-- column: message: beginning of Ray's message about its end
-- column: source: events or metrics
WITH attempts AS (
  SELECT session, job_id, state,
         attempt = max(attempt) OVER (PARTITION BY session, task_id) AS is_last
  FROM ray_task_attempts
  WHERE NOT is_internal
    AND NOT ray_is_driver(task_id)
),
tasks AS (
  SELECT session AS of_session, job_id AS of_job_id,
         count(*) FILTER (state = 'FINISHED') AS finished_attempts,
         count(*) FILTER (state = 'FAILED') AS failed_attempts,
         count(*) FILTER (state = 'FAILED' AND is_last) AS failed_tasks
  FROM attempts GROUP BY ALL
)
FROM (
  SELECT j.began, j.cluster_id, j.session, j.job_id, j.submission_id,
         right(j.entrypoint, 60) AS entrypoint, j.status, j.ended, j.run_seconds,
         if(j.source = 'events', coalesce(t.finished_attempts, 0), NULL) AS finished_attempts,
         if(j.source = 'events', coalesce(t.failed_attempts, 0), NULL) AS failed_attempts,
         if(j.source = 'events', coalesce(t.failed_tasks, 0), NULL) AS failed_tasks,
         left(j.message, 200) AS message, j.source
  FROM ray_jobs AS j
  LEFT JOIN tasks AS t
    ON t.of_session IS NOT DISTINCT FROM j.session AND t.of_job_id = j.job_id
  WHERE NOT coalesce(j.is_internal, false)
  ORDER BY j.time DESC, j.cluster_id, j.job_id
  LIMIT $limit::BIGINT
)
ORDER BY began, cluster_id, job_id

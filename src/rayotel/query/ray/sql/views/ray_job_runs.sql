-- about: every job in Ray's events: what was run, when, for how long, and how it ended
-- note: A job is a driver that connected; one that was submitted (ray job submit) is the driver that its submission started. Ray reports only that a driver finished: failed_attempts in the question failures-by-job shows what went wrong in it. Events of submissions, which have an outcome, are defined by Ray but not sent by Ray 2.60; where they come, they are used.
-- column: time: when it began, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: job_id: 8 hex digits; null for a submission whose driver never connected
-- column: submission_id: of a job that was submitted
-- column: entrypoint: command of the driver
-- column: driver_node_id: node where it runs
-- column: began: when it was created
-- column: ended: when it was over; null while it runs
-- column: run_seconds: from began to ended
-- column: status: SUCCEEDED, FAILED or STOPPED of a submission; FINISHED of a driver; else the last state that is known
-- column: message: Ray's message about its end
-- column: exit_code: of the driver of a submission
-- column: is_internal: whether it is of Ray's own doing
-- example: SELECT began, coalesce(submission_id, job_id) AS job, status, run_seconds FROM ray_job_runs ORDER BY began
-- needs: ray_session_clusters, rayevents
CREATE VIEW ray_job_runs AS
WITH reports AS (
  SELECT session_name AS session, cluster_id, event_type, job_id, time_unix_nano, event,
         starts_with(event_type, 'SUBMISSION') AS is_submission,
         coalesce(event->>'$.submissionId',
                  event->>'$.config.metadata.job_submission_id') AS submission_id
  FROM rayevents
  WHERE event_type IN ('DRIVER_JOB_DEFINITION_EVENT', 'DRIVER_JOB_LIFECYCLE_EVENT',
                       'SUBMISSION_JOB_DEFINITION_EVENT', 'SUBMISSION_JOB_LIFECYCLE_EVENT')
),
steps AS (
  SELECT session, is_submission, job_id, submission_id, step.state AS state,
         TRY_CAST(step.timestamp AS TIMESTAMPTZ) AS moment, nullif(step.message, '') AS message,
         step.driverExitCode AS exit_code
  FROM (
    SELECT *, unnest(from_json(
      event->'$.stateTransitions',
      '[{"state":"VARCHAR","timestamp":"VARCHAR","message":"VARCHAR","driverExitCode":"BIGINT"}]'
    )) AS step
    FROM reports
    WHERE event_type IN ('DRIVER_JOB_LIFECYCLE_EVENT', 'SUBMISSION_JOB_LIFECYCLE_EVENT')
  )
),
drivers AS (
  SELECT session, job_id, max(cluster_id) AS cluster_id, max(submission_id) AS submission_id,
         max(event->>'$.entrypoint') AS entrypoint,
         max(event->>'$.driverNodeId') AS driver_node_id, min(time_unix_nano) AS reported_at
  FROM reports WHERE NOT is_submission GROUP BY ALL
),
driver_steps AS (
  SELECT session, job_id, min(moment) FILTER (state = 'CREATED') AS began,
         min(moment) FILTER (state = 'FINISHED') AS ended, arg_max(state, moment) AS state
  FROM steps WHERE NOT is_submission GROUP BY ALL
),
submissions AS (
  SELECT session, submission_id, max(cluster_id) AS cluster_id,
         max(event->>'$.entrypoint') AS entrypoint, min(time_unix_nano) AS reported_at
  FROM reports WHERE is_submission GROUP BY ALL
),
submission_steps AS (
  SELECT session, submission_id, min(moment) AS began,
         min(moment) FILTER (state IN ('SUCCEEDED', 'FAILED', 'STOPPED')) AS ended,
         arg_max(state, moment) AS state, arg_max(message, moment) AS message,
         arg_max(exit_code, moment) FILTER (state IN ('SUCCEEDED', 'FAILED', 'STOPPED'))
           AS exit_code
  FROM steps WHERE is_submission GROUP BY ALL
),
driver_runs AS (
  SELECT d.*, t.began, t.ended, t.state FROM drivers AS d
  LEFT JOIN driver_steps AS t
    ON t.session IS NOT DISTINCT FROM d.session AND t.job_id = d.job_id
),
submission_runs AS (
  SELECT s.*, t.began, t.ended, t.state, t.message, t.exit_code FROM submissions AS s
  LEFT JOIN submission_steps AS t
    ON t.session IS NOT DISTINCT FROM s.session AND t.submission_id = s.submission_id
)
SELECT coalesce(s.began, d.began, s.reported_at, d.reported_at) AS time,
       coalesce(d.cluster_id, s.cluster_id, c.cluster_id) AS cluster_id,
       coalesce(d.session, s.session) AS session,
       d.job_id,
       coalesce(d.submission_id, s.submission_id) AS submission_id,
       coalesce(s.entrypoint, d.entrypoint) AS entrypoint,
       nullif(d.driver_node_id, '') AS driver_node_id,
       coalesce(s.began, d.began) AS began,
       coalesce(s.ended, d.ended) AS ended,
       epoch(coalesce(s.ended, d.ended) - coalesce(s.began, d.began)) AS run_seconds,
       coalesce(s.state, d.state) AS status,
       s.message, s.exit_code,
       coalesce(d.entrypoint LIKE '%\_ray\_internal%' ESCAPE '\'
                OR d.submission_id LIKE '\_ray\_internal%' ESCAPE '\', false) AS is_internal
FROM driver_runs AS d
FULL JOIN submission_runs AS s
  ON s.session IS NOT DISTINCT FROM d.session AND s.submission_id = d.submission_id
LEFT JOIN ray_session_clusters AS c ON c.session = coalesce(d.session, s.session);

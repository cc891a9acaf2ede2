-- about: every attempt of every task that Ray's events tell of: who ran it, where, when, and how it ended
-- note: Ray tells of an attempt in several events, from its owner and from its worker; here they are one row. A state whose event is outside of the time range is null.
-- column: time: first moment known of it, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: job_id: of the job, 8 hex digits
-- column: task_id: of the task; the same for all of its attempts
-- column: attempt: 0 for the first, then its retries
-- column: task: name of the task or actor method
-- column: kind: NORMAL_TASK, ACTOR_TASK, ACTOR_CREATION_TASK or DRIVER_TASK
-- column: node_id: node where it ran
-- column: worker_id: process that ran it
-- column: actor_id: of a method call
-- column: parent_task_id: task that submitted it
-- column: submitted: when its owner knew of it
-- column: scheduled: when all that it needs was there and it waited for a place
-- column: started: when it began to run
-- column: ended: when it finished or failed
-- column: run_seconds: from started to ended
-- column: state: FINISHED, FAILED, or the last that is known
-- column: error_type: why it failed, Ray's word
-- column: error_message: the same at length
-- column: is_retry: whether it was tried before
-- column: is_internal: whether it is of Ray's own doing
-- example: SELECT task, error_type, count(*) AS attempts FROM ray_task_attempts WHERE state = 'FAILED' GROUP BY ALL ORDER BY attempts DESC
CREATE VIEW ray_task_attempts AS
WITH told AS (
  SELECT session_name AS session, cluster_id, task_id, coalesce(task_attempt, 0) AS attempt,
         event_type, job_id, node_id, worker_id, actor_id, time_unix_nano, event,
         event_type = 'TASK_LIFECYCLE_EVENT' AS is_lifecycle
  FROM rayevents
  WHERE event_type IN ('TASK_DEFINITION_EVENT', 'ACTOR_TASK_DEFINITION_EVENT',
                       'TASK_LIFECYCLE_EVENT')
    AND task_id IS NOT NULL
),
moments AS (  -- state transitions
  SELECT session, task_id, attempt, step.state AS state,
         step.timestamp::TIMESTAMPTZ AS moment
  FROM (
    SELECT session, task_id, attempt,
           unnest(from_json(event->'$.stateTransitions',
                            '[{"state":"VARCHAR","timestamp":"VARCHAR"}]')) AS step
    FROM told WHERE is_lifecycle
  )
),
states AS (
  SELECT session, task_id, attempt, min(moment) AS first_at,
         min(moment) FILTER (state = 'PENDING_ARGS_AVAIL') AS submitted,
         min(moment) FILTER (state = 'PENDING_NODE_ASSIGNMENT') AS scheduled,
         min(moment) FILTER (state = 'RUNNING') AS started,
         min(moment) FILTER (state IN ('FINISHED', 'FAILED')) AS ended,
         coalesce(arg_min(state, moment) FILTER (state IN ('FINISHED', 'FAILED')),
                  arg_max(state, moment)) AS state
  FROM moments GROUP BY ALL
),
attempts AS (
  SELECT session, task_id, attempt,
         max(cluster_id) AS own_cluster_id,
         min(time_unix_nano) AS told_at,
         max(job_id) AS job_id, max(node_id) AS node_id, max(worker_id) AS worker_id,
         max(actor_id) AS actor_id,
         max(coalesce(event->>'$.taskName', event->>'$.actorTaskName'))
           FILTER (NOT is_lifecycle) AS own_task,
         max(if(event_type = 'ACTOR_TASK_DEFINITION_EVENT', 'ACTOR_TASK',
                event->>'$.taskType')) FILTER (NOT is_lifecycle) AS own_kind,
         max(event->>'$.parentTaskId') FILTER (NOT is_lifecycle) AS parent_task_id,
         max(event->>'$.rayErrorInfo.errorType') FILTER (is_lifecycle) AS error_type,
         max(event->>'$.rayErrorInfo.errorMessage') FILTER (is_lifecycle) AS error_message
  FROM told GROUP BY ALL
),
names AS (  -- a retry may be told of without a name
  SELECT session AS of_session, task_id AS of_task_id, max(own_task) AS task,
         max(own_kind) AS kind
  FROM attempts GROUP BY ALL
)
SELECT coalesce(s.first_at, a.told_at) AS time,
       coalesce(a.own_cluster_id, c.cluster_id) AS cluster_id,
       a.session, a.job_id, a.task_id, a.attempt, n.task, n.kind, a.node_id, a.worker_id,
       a.actor_id, a.parent_task_id, s.submitted, s.scheduled, s.started, s.ended,
       epoch(s.ended - s.started) AS run_seconds,
       s.state, a.error_type, nullif(a.error_message, '') AS error_message,
       a.attempt > 0 AS is_retry,
       coalesce(n.task LIKE 'JobSupervisor.%' OR n.task LIKE '\_ray\_internal%' ESCAPE '\', false)
         AS is_internal
FROM attempts AS a
LEFT JOIN states AS s
  ON s.session IS NOT DISTINCT FROM a.session AND s.task_id = a.task_id AND s.attempt = a.attempt
LEFT JOIN names AS n
  ON n.of_session IS NOT DISTINCT FROM a.session AND n.of_task_id = a.task_id
LEFT JOIN ray_session_clusters AS c ON c.session = a.session;

-- about: every attempt of every task that Ray's events tell of: who ran it, where, when, and how it ended
-- note: Ray reports an attempt in several events, from its owner and from its worker; here they are one row. A state whose event is outside of the time range is null.
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
-- needs: ray_is_internal, ray_session_clusters, rayevents
CREATE VIEW ray_task_attempts AS
WITH reports AS (
  SELECT session_name AS session, cluster_id, task_id, coalesce(task_attempt, 0) AS attempt,
         event_type, job_id, node_id, worker_id, actor_id, time_unix_nano,
         from_json(event, '{
           "taskName": "VARCHAR", "actorTaskName": "VARCHAR", "taskType": "VARCHAR",
           "parentTaskId": "VARCHAR",
           "rayErrorInfo": {"errorType": "VARCHAR", "errorMessage": "VARCHAR"},
           "stateTransitions": [{"state": "VARCHAR", "timestamp": "VARCHAR"}]}') AS event
  FROM rayevents
  WHERE event_type IN ('TASK_DEFINITION_EVENT', 'ACTOR_TASK_DEFINITION_EVENT',
                       'TASK_LIFECYCLE_EVENT')
    AND task_id IS NOT NULL
),
steps AS (  -- a row for each transition; one without any is a row as well
  SELECT * EXCLUDE (step), step.state AS state, TRY_CAST(step.timestamp AS TIMESTAMPTZ) AS moment
  FROM (
    SELECT *, unnest(if(len(event.stateTransitions) > 0, event.stateTransitions, [NULL])) AS step
    FROM reports
  )
),
attempts AS (
  SELECT session, task_id, attempt,
         max(cluster_id) AS own_cluster_id,
         min(coalesce(moment, time_unix_nano)) AS time,
         max(job_id) AS job_id, max(node_id) AS node_id, max(worker_id) AS worker_id,
         max(actor_id) AS actor_id,
         max(coalesce(event.taskName, event.actorTaskName)) AS own_task,
         max(if(event_type = 'ACTOR_TASK_DEFINITION_EVENT', 'ACTOR_TASK', event.taskType))
           AS own_kind,
         max(event.parentTaskId) AS parent_task_id,
         max(event.rayErrorInfo.errorType) AS error_type,
         max(event.rayErrorInfo.errorMessage) AS error_message,
         min(moment) FILTER (state = 'PENDING_ARGS_AVAIL') AS submitted,
         min(moment) FILTER (state = 'PENDING_NODE_ASSIGNMENT') AS scheduled,
         min(moment) FILTER (state = 'RUNNING') AS started,
         min(moment) FILTER (state IN ('FINISHED', 'FAILED')) AS ended,
         coalesce(arg_min(state, moment) FILTER (state IN ('FINISHED', 'FAILED')),
                  arg_max(state, moment)) AS state
  FROM steps GROUP BY session, task_id, attempt
),
named AS (  -- a retry may be reported without a name
  SELECT *,
         coalesce(own_task, max(own_task) OVER one_task) AS task,
         coalesce(own_kind, max(own_kind) OVER one_task) AS kind
  FROM attempts
  WINDOW one_task AS (PARTITION BY session, task_id)
)
SELECT a.time,
       coalesce(a.own_cluster_id, c.cluster_id) AS cluster_id,
       a.session, a.job_id, a.task_id, a.attempt, a.task, a.kind, a.node_id, a.worker_id,
       a.actor_id, a.parent_task_id, a.submitted, a.scheduled, a.started, a.ended,
       epoch(a.ended - a.started) AS run_seconds,
       a.state, a.error_type, nullif(a.error_message, '') AS error_message,
       a.attempt > 0 AS is_retry,
       coalesce(ray_is_internal(a.task), false)
         AS is_internal
FROM named AS a
LEFT JOIN ray_session_clusters AS c ON c.session = a.session;

-- about: what happened to each actor, from Ray's events: created, alive, restarting, dead
-- column: time: when, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: job_id: of its job
-- column: actor_id: of the actor; the same after a restart
-- column: actor: its class
-- column: name: its own name, where it has one
-- column: state: DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING or DEAD
-- column: node_id: where it lives
-- column: worker_id: process it lives in
-- column: reason: why it restarts or died, Ray's word
-- column: message: the same at length
-- column: is_internal: whether it is of Ray's own doing
-- example: SELECT actor, count(*) AS restarts FROM ray_actor_events WHERE state = 'RESTARTING' GROUP BY ALL
-- needs: ray_session_clusters, rayevents
CREATE VIEW ray_actor_events AS
WITH steps AS (
  SELECT DISTINCT session_name AS session, cluster_id, actor_id, step.state AS state,
         TRY_CAST(step.timestamp AS TIMESTAMPTZ) AS moment, nullif(step.nodeId, '') AS node_id,
         nullif(step.workerId, '') AS worker_id, step.restartReason AS restart_reason,
         step.deathCause AS cause
  FROM (
    SELECT *, unnest(from_json(
      event->'$.stateTransitions',
      '[{"state":"VARCHAR","timestamp":"VARCHAR","nodeId":"VARCHAR","workerId":"VARCHAR",
         "restartReason":"VARCHAR","deathCause":"JSON"}]'
    )) AS step
    FROM rayevents WHERE event_type = 'ACTOR_LIFECYCLE_EVENT'
  )
),
known AS (
  SELECT session_name AS session, actor_id, max(job_id) AS job_id,
         max(event->>'$.className') AS actor, max(nullif(event->>'$.name', '')) AS name
  FROM rayevents WHERE event_type = 'ACTOR_DEFINITION_EVENT' GROUP BY ALL
)
SELECT s.moment AS time, coalesce(s.cluster_id, c.cluster_id) AS cluster_id, s.session,
       coalesce(k.job_id, right(s.actor_id, 8)) AS job_id,
       s.actor_id, coalesce(k.actor, s.cause->>'$.actorDiedErrorContext.className') AS actor,
       k.name, s.state, s.node_id, s.worker_id,
       CASE WHEN s.state = 'DEAD' THEN coalesce(s.cause->>'$.actorDiedErrorContext.reason',
                                                json_keys(s.cause)[1])
            WHEN s.state = 'RESTARTING' THEN s.restart_reason END AS reason,
       CASE WHEN s.state = 'DEAD' THEN coalesce(
         s.cause->>'$.actorDiedErrorContext.errorMessage',
         s.cause->>(concat('$.', json_keys(s.cause)[1], '.errorMessage'))) END AS message,
       coalesce(k.actor = 'JobSupervisor' OR k.name LIKE '\_ray\_internal%' ESCAPE '\', false)
         AS is_internal
FROM steps AS s
LEFT JOIN known AS k ON k.session IS NOT DISTINCT FROM s.session AND k.actor_id = s.actor_id
LEFT JOIN ray_session_clusters AS c ON c.session = s.session;

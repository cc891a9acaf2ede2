-- about: worker processes that began and ended, as Ray's events tell it, and how they ended
-- note: NODE_OUT_OF_MEMORY is a worker that Ray killed to save its node; SYSTEM_ERROR is one that crashed, or that the kernel killed.
-- column: time: when, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: job_id: of its job
-- column: worker_id: of the process
-- column: node_id: where it ran
-- column: pid: its number there
-- column: worker_type: WORKER, DRIVER, SPILL_WORKER and so on
-- column: state: ALIVE or DEAD
-- column: reason: how it ended: SYSTEM_ERROR, NODE_OUT_OF_MEMORY, USER_ERROR, INTENDED_USER_EXIT or INTENDED_SYSTEM_EXIT
-- column: message: the same at length
-- column: worker_memory_bytes: its memory at the end, where Ray says it
-- column: is_unexpected: whether it ended otherwise than by intent
-- example: SELECT reason, count(*) AS workers FROM ray_worker_events WHERE is_unexpected GROUP BY ALL
-- needs: ray_session_clusters, rayevents
CREATE VIEW ray_worker_events AS
WITH steps AS (
  SELECT DISTINCT session_name AS session, cluster_id, worker_id, job_id, step.state AS state,
         TRY_CAST(step.timestamp AS TIMESTAMPTZ) AS moment, step.deathInfo.exitType AS reason,
         step.deathInfo.exitDetail AS message,
         TRY_CAST(step.deathInfo.memoryUsedBytes AS BIGINT) AS worker_memory_bytes
  FROM (
    SELECT *, unnest(from_json(
      event->'$.stateTransitions',
      '[{"state":"VARCHAR","timestamp":"VARCHAR","deathInfo":
         {"exitType":"VARCHAR","exitDetail":"VARCHAR","memoryUsedBytes":"VARCHAR"}}]'
    )) AS step
    FROM rayevents WHERE event_type = 'WORKER_LIFECYCLE_EVENT'
  )
),
known AS (
  SELECT session_name AS session, worker_id, max(node_id) AS node_id,
         max(TRY_CAST(event->>'$.pid' AS BIGINT)) AS pid, max(event->>'$.workerType') AS worker_type
  FROM rayevents WHERE event_type = 'WORKER_DEFINITION_EVENT' GROUP BY ALL
)
SELECT s.moment AS time, coalesce(s.cluster_id, c.cluster_id) AS cluster_id, s.session, s.job_id,
       s.worker_id, k.node_id, k.pid, k.worker_type, s.state, s.reason, s.message,
       s.worker_memory_bytes,
       s.state = 'DEAD' AND s.reason IN ('SYSTEM_ERROR', 'NODE_OUT_OF_MEMORY', 'USER_ERROR')
         AS is_unexpected
FROM steps AS s
LEFT JOIN known AS k ON k.session IS NOT DISTINCT FROM s.session AND k.worker_id = s.worker_id
LEFT JOIN ray_session_clusters AS c ON c.session = s.session;

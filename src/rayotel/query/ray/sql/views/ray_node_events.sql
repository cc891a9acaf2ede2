-- about: nodes that came and went, from Ray's events
-- column: time: when, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node_id: of the node; a node that comes back has a new one
-- column: address: its IP address
-- column: hostname: its name
-- column: state: ALIVE or DEAD
-- column: sub_state: DRAINING where it is about to go
-- column: reason: why it died: UNEXPECTED_TERMINATION, AUTOSCALER_DRAIN_IDLE and so on
-- column: message: the same at length
-- column: resources: what it offers, JSON
-- example: SELECT time, address, state, reason, message FROM ray_node_events ORDER BY time
-- needs: ray_session_clusters, rayevents
CREATE VIEW ray_node_events AS
WITH steps AS (
  SELECT DISTINCT session_name AS session, cluster_id, node_id, step.state AS state,
         TRY_CAST(step.timestamp AS TIMESTAMPTZ) AS moment, step.aliveSubState AS sub_state,
         step.deathInfo.reason AS reason, step.deathInfo.reasonMessage AS message,
         step.resources AS resources
  FROM (
    SELECT *, unnest(from_json(
      event->'$.stateTransitions',
      '[{"state":"VARCHAR","timestamp":"VARCHAR","aliveSubState":"VARCHAR",
         "deathInfo":{"reason":"VARCHAR","reasonMessage":"VARCHAR"},"resources":"JSON"}]'
    )) AS step
    FROM rayevents WHERE event_type = 'NODE_LIFECYCLE_EVENT'
  )
),
known AS (
  SELECT session_name AS session, node_id, max(event->>'$.nodeIpAddress') AS address,
         max(event->>'$.hostname') AS hostname
  FROM rayevents WHERE event_type = 'NODE_DEFINITION_EVENT' GROUP BY ALL
)
SELECT s.moment AS time, coalesce(s.cluster_id, c.cluster_id) AS cluster_id, s.session,
       s.node_id, k.address, k.hostname, s.state,
       nullif(s.sub_state, 'UNSPECIFIED') AS sub_state, s.reason, s.message,
       nullif(s.resources::VARCHAR, '{}') AS resources
FROM steps AS s
LEFT JOIN known AS k ON k.session IS NOT DISTINCT FROM s.session AND k.node_id = s.node_id
LEFT JOIN ray_session_clusters AS c ON c.session = s.session;

-- about: how full each node's object store was, minute by minute, and what it spilled and restored
-- note: Fullness is used / (used + available). Ray spills at 80 %, so a store near 80 % is at work, not in danger; beyond 90 %, or with fallback in use, it is. Ray's own dashboard adds what was spilled and can show far more than 100 %.
-- note: Without what was spilled and restored, ray_node_minutes(['object_store']) is faster.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target, else the node's address
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target
-- column: object_store_used_pct: highest fullness in the minute, 0 to 100
-- column: object_store_used_bytes: most in use
-- column: object_store_capacity_bytes: size of the store
-- column: on_disk_bytes: most bytes held on disk at a time, because they were spilled
-- column: fallback_bytes: most bytes allocated on disk as a last resort
-- column: spilled_bytes: written to disk in this minute
-- column: restored_bytes: read back in this minute
-- example: SELECT minute, node, object_store_used_pct FROM ray_object_store WHERE object_store_used_pct > 90 ORDER BY minute
-- needs: ray_increase, ray_node_minutes
CREATE VIEW ray_object_store AS
SELECT u.minute, u.cluster_id, u.session, u.node, u.node_from, u.instance,
       u.object_store_used_pct, u.object_store_used_bytes, u.object_store_capacity_bytes,
       u.on_disk_bytes, u.fallback_bytes,
       coalesce(s.spilled_bytes, 0) AS spilled_bytes,
       coalesce(s.restored_bytes, 0) AS restored_bytes
FROM ray_node_minutes(['object_store']) AS u
LEFT JOIN (
  SELECT minute, session, node,
         sum(increase) FILTER (metric_State = 'Spilled') AS spilled_bytes,
         sum(increase) FILTER (metric_State = 'Restored') AS restored_bytes
  FROM ray_increase('ray_spill_manager_objects_bytes')
  WHERE metric_State IN ('Spilled', 'Restored')
  GROUP BY ALL
) AS s
  ON s.minute = u.minute AND s.node IS NOT DISTINCT FROM u.node
 AND s.session IS NOT DISTINCT FROM u.session
WHERE u.object_store_capacity_bytes > 0;

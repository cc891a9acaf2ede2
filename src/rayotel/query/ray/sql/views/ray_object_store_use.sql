-- about: how full each node's object store was, minute by minute: ray_object_store without what it spilled and restored, and faster
-- note: Fullness is used / (used + available). Ray spills at 80 %, so a store near 80 % is at work, not in danger; beyond 90 %, or with fallback in use, it is. Ray's own dashboard adds what was spilled and can show far more than 100 %.
-- column: time: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target where the scrape said it, else the node's address
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target
-- column: used_pct: highest fullness in the minute, 0 to 100
-- column: used_bytes: most in use
-- column: capacity_bytes: size of the store
-- column: on_disk_bytes: most bytes held on disk at a time, because they were spilled
-- column: fallback_bytes: most bytes allocated on disk as a last resort
-- example: SELECT time, node, used_pct FROM ray_object_store_use WHERE used_pct > 90 ORDER BY time
CREATE VIEW ray_object_store_use AS
SELECT minute AS time,
       coalesce(nullif(cluster_key, ''), cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       ray_node(instance_key, address_key) AS node,
       ray_node_from(instance_key, address_key) AS node_from,
       nullif(instance_key, '') AS instance,
       100 * used_bytes / (used_bytes + available_bytes) AS used_pct,
       used_bytes, used_bytes + available_bytes AS capacity_bytes,
       coalesce(on_disk_bytes, 0) AS on_disk_bytes,
       coalesce(fallback_bytes, 0) AS fallback_bytes
FROM (
  SELECT minute, instance_key, session_key, address_key, cluster_key,
         -- of one size: when most is used, least is available
         max(data_point_value)
           FILTER (metric_name = 'ray_object_store_used_memory') AS used_bytes,
         min(data_point_value)
           FILTER (metric_name = 'ray_object_store_available_memory') AS available_bytes,
         max(data_point_value)
           FILTER (metric_name = 'ray_object_store_fallback_memory') AS fallback_bytes
  FROM ray_samples
  WHERE metric_name IN ('ray_object_store_used_memory', 'ray_object_store_available_memory',
                        'ray_object_store_fallback_memory')
  GROUP BY ALL
  HAVING used_bytes + available_bytes > 0
) AS store
LEFT JOIN (
  SELECT minute, instance_key, session_key, address_key, cluster_key, sum(most) AS on_disk_bytes
  FROM (  -- a node has one such series
    SELECT minute, series_id, instance_key, session_key, address_key, cluster_key,
           max(data_point_value) AS most
    FROM ray_samples
    WHERE metric_name = 'ray_object_store_memory' AND metric_Location = 'SPILLED'
    GROUP BY ALL
  )
  GROUP BY ALL
) AS disk USING (minute, instance_key, session_key, address_key, cluster_key)
LEFT JOIN ray_targets AS t USING (session_key, instance_key);

-- about: how full each node's object store was, minute by minute, and what it spilled and restored
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
-- column: spilled_bytes: written to disk in this minute
-- column: restored_bytes: read back in this minute
-- example: SELECT time, node, used_pct FROM ray_object_store WHERE used_pct > 90 ORDER BY time
CREATE VIEW ray_object_store AS
SELECT minute AS time,
       coalesce(nullif(cluster_key, ''), cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       coalesce(nullif(instance_key, ''), nullif(address_key, '')) AS node,
       CASE WHEN instance_key <> '' THEN 'instance' WHEN address_key <> '' THEN 'address' END
         AS node_from,
       nullif(instance_key, '') AS instance,
       100 * used_bytes / (used_bytes + available_bytes) AS used_pct,
       used_bytes, used_bytes + available_bytes AS capacity_bytes,
       coalesce(on_disk_bytes, 0) AS on_disk_bytes,
       coalesce(fallback_bytes, 0) AS fallback_bytes,
       coalesce(spilled_bytes, 0) AS spilled_bytes,
       coalesce(restored_bytes, 0) AS restored_bytes
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
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
LEFT JOIN (
  SELECT minute, instance_key, session_key, address_key, cluster_key, max(bytes) AS on_disk_bytes
  FROM (
    SELECT minute, instance_key, session_key, address_key, cluster_key, time_unix_nano,
           sum(one) AS bytes
    FROM (  -- a scrape may be stored twice
      SELECT minute, instance_key, session_key, address_key, cluster_key, time_unix_nano,
             series_id, max(data_point_value) AS one
      FROM ray_samples
      WHERE metric_name = 'ray_object_store_memory' AND metric_Location = 'SPILLED'
      GROUP BY ALL
    )
    GROUP BY minute, instance_key, session_key, address_key, cluster_key, time_unix_nano
  )
  GROUP BY minute, instance_key, session_key, address_key, cluster_key
) AS disk USING (minute, instance_key, session_key, address_key, cluster_key)
LEFT JOIN (
  SELECT minute, instance_key, session_key, address_key, cluster_key,
         sum(rise) FILTER (state = 'Spilled') AS spilled_bytes,
         sum(rise) FILTER (state = 'Restored') AS restored_bytes
  FROM (
    SELECT *, CASE
        WHEN last < lag(last) OVER one_series THEN last  -- the node's agent began anew
        ELSE last - coalesce(lag(last) OVER one_series, first)
      END AS rise
    FROM (  -- running totals: the last of each minute is enough
      SELECT date_trunc('minute', time_unix_nano) AS minute, series_id, metric_State AS state,
             any_value(coalesce(metric_instance, '')) AS instance_key,
             any_value(coalesce(metric_SessionName, '')) AS session_key,
             any_value(coalesce(metric_NodeAddress, '')) AS address_key,
             any_value(coalesce(nullif(metric_cluster_id, ''), cluster_id, '')) AS cluster_key,
             arg_min(data_point_value, time_unix_nano) AS first,
             arg_max(data_point_value, time_unix_nano) AS last
      FROM "raymetrics past"
      -- DuckDB leaves out this join where nobody asks for its columns: it is the last one, and
      -- IN (SELECT ...) does not keep it from proving that nothing changes
      WHERE metric_name IN (SELECT unnest(['ray_spill_manager_objects_bytes']))
      GROUP BY minute, series_id, state
    )
    WINDOW one_series AS (PARTITION BY series_id ORDER BY minute)
  )
  GROUP BY minute, instance_key, session_key, address_key, cluster_key
) AS spilling USING (minute, instance_key, session_key, address_key, cluster_key);

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
SELECT u.*, coalesce(spilled_bytes, 0) AS spilled_bytes,
       coalesce(restored_bytes, 0) AS restored_bytes
FROM ray_object_store_use AS u
LEFT JOIN (
  SELECT minute, session, node,
         sum(rise) FILTER (state = 'Spilled') AS spilled_bytes,
         sum(rise) FILTER (state = 'Restored') AS restored_bytes
  FROM (
    SELECT *, CASE
        WHEN last < lag(last) OVER one_series THEN last  -- the node's agent began anew
        ELSE last - coalesce(lag(last) OVER one_series, first)
      END AS rise
    FROM (  -- running totals: the last of each minute is enough
      SELECT date_trunc('minute', time_unix_nano) AS minute, series_id, metric_State AS state,
             any_value(nullif(metric_SessionName, '')) AS session,
             any_value(coalesce(nullif(metric_instance, ''), metric_NodeAddress)) AS node,
             arg_min(data_point_value, time_unix_nano) AS first,
             arg_max(data_point_value, time_unix_nano) AS last
      FROM "raymetrics past"
      WHERE metric_name = 'ray_spill_manager_objects_bytes'
        AND metric_State IN ('Spilled', 'Restored')
      GROUP BY minute, series_id, state
    )
    WINDOW one_series AS (PARTITION BY series_id ORDER BY minute)
  )
  GROUP BY ALL
) AS spilling
  ON spilling.minute = u.time AND spilling.node IS NOT DISTINCT FROM u.node
 AND spilling.session IS NOT DISTINCT FROM u.session;

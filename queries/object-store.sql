-- question: How full is each node's object store, and does it spill?
-- note: Fullness is used / (used + available). Ray spills at 80 %, so a store near 80 % is at work, not in danger; beyond 90 %, or with fallback in use, it is. Ray's own dashboard adds what was spilled and can show far more than 100 %.
-- column: minute: UTC minute of event time
-- column: cluster_id: label or X-P-Cluster-Id header, else what another metric of the node or session says
-- column: node: scrape target, else address
-- column: used_pct: highest fullness within the minute, 0 to 100
-- column: spilled_bytes: most bytes held on disk within the minute
-- column: fallback_bytes: most bytes allocated on disk as a last resort within the minute
WITH scrapes AS (
  SELECT time_unix_nano AS at, metric_instance AS instance, metric_SessionName AS session,
         coalesce(nullif(metric_instance, ''), metric_NodeAddress) AS node,
         max(data_point_value) FILTER (WHERE metric_name = 'ray_object_store_used_memory') AS used,
         max(data_point_value)
           FILTER (WHERE metric_name = 'ray_object_store_available_memory') AS available,
         max(data_point_value)
           FILTER (WHERE metric_name = 'ray_object_store_fallback_memory') AS fallback,
         sum(data_point_value)
           FILTER (WHERE metric_name = 'ray_object_store_memory' AND metric_Location = 'SPILLED')
           AS spilled
  FROM raymetrics
  WHERE metric_name IN ('ray_object_store_used_memory', 'ray_object_store_available_memory',
                        'ray_object_store_fallback_memory', 'ray_object_store_memory')
  GROUP BY ALL
),
clusters AS (
  SELECT metric_instance AS instance, metric_SessionName AS session,
         max(coalesce(metric_cluster_id, cluster_id)) AS cluster_id
  FROM raymetrics  -- metrics that every target has, or that alone have the label
  WHERE metric_name IN ('target_info', 'ray_node_cpu_count', 'ray_resources', 'ray_tasks',
                        'ray_component_rss_mb', 'autoscaler_active_nodes')
  GROUP BY ALL
),
instance_cluster AS (
  SELECT instance, max(cluster_id) AS cluster_id FROM clusters GROUP BY instance
),
session_cluster AS (
  SELECT session, max(cluster_id) AS cluster_id FROM clusters GROUP BY session
)
SELECT date_trunc('minute', at) AS minute,
       coalesce(i.cluster_id, s.cluster_id) AS cluster_id,
       node,
       max(100 * used / nullif(used + available, 0)) AS used_pct,
       coalesce(max(spilled), 0) AS spilled_bytes,
       coalesce(max(fallback), 0) AS fallback_bytes
FROM scrapes
LEFT JOIN instance_cluster AS i USING (instance)
LEFT JOIN session_cluster AS s USING (session)
GROUP BY ALL
HAVING max(used + available) > 0
ORDER BY minute, cluster_id, node

-- question: How full is each node's memory, minute by minute?
-- note: In a container the limit that counts is the cgroup's, so that is used where Ray reports it. Ray begins to kill workers at 95 %.
-- column: minute: UTC minute of event time
-- column: cluster_id: label or X-P-Cluster-Id header, else what another metric of the node or session says
-- column: node: scrape target, else address
-- column: used_bytes: most memory in use within the minute
-- column: total_bytes: memory that the node may use
-- column: used_pct: highest share in use within the minute, 0 to 100
WITH scrapes AS (
  SELECT time_unix_nano AS at, metric_instance AS instance, metric_SessionName AS session,
         coalesce(nullif(metric_instance, ''), metric_NodeAddress) AS node,
         max(data_point_value) FILTER (WHERE metric_name = 'ray_node_mem_used') AS used,
         max(data_point_value) FILTER (WHERE metric_name = 'ray_node_mem_total') AS total,
         max(data_point_value) FILTER (WHERE metric_name = 'ray_node_cgroup_mem_used') AS group_used,
         max(data_point_value) FILTER (WHERE metric_name = 'ray_node_cgroup_mem_total') AS group_total
  FROM raymetrics
  WHERE metric_name IN ('ray_node_mem_used', 'ray_node_mem_total',
                        'ray_node_cgroup_mem_used', 'ray_node_cgroup_mem_total')
  GROUP BY ALL
),
chosen AS (
  SELECT * EXCLUDE (used, total),
         if(group_used IS NULL OR group_total IS NULL, used, group_used) AS used,
         if(group_used IS NULL OR group_total IS NULL, total, group_total) AS total
  FROM scrapes
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
       max(used) AS used_bytes,
       max(total) AS total_bytes,
       max(100 * used / nullif(total, 0)) AS used_pct
FROM chosen
LEFT JOIN instance_cluster AS i USING (instance)
LEFT JOIN session_cluster AS s USING (session)
GROUP BY ALL
ORDER BY minute, cluster_id, node

-- question: How busy is each node, minute by minute?
-- note: A node is its scrape target where Fluent Bit adds `instance`; by address alone two nodes of one host are one. A cluster's mean is sum(avg_cpu * cores) / sum(cores).
-- column: minute: UTC minute of event time
-- column: cluster_id: label or X-P-Cluster-Id header, else what another metric of the node or session says
-- column: node: scrape target, else address
-- column: avg_cpu: mean CPU use of the minute, 0 to 100
-- column: max_cpu: highest CPU use of the minute, 0 to 100
-- column: cores: CPUs of the node
WITH samples AS (
  SELECT time_unix_nano AS at, metric_name, data_point_value AS value,
         metric_instance AS instance, metric_SessionName AS session,
         coalesce(nullif(metric_instance, ''), metric_NodeAddress) AS node
  FROM raymetrics
  WHERE metric_name IN ('ray_node_cpu_utilization', 'ray_node_cpu_count')
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
       avg(value) FILTER (WHERE metric_name = 'ray_node_cpu_utilization') AS avg_cpu,
       max(value) FILTER (WHERE metric_name = 'ray_node_cpu_utilization') AS max_cpu,
       max(value) FILTER (WHERE metric_name = 'ray_node_cpu_count') AS cores
FROM samples
LEFT JOIN instance_cluster AS i USING (instance)
LEFT JOIN session_cluster AS s USING (session)
GROUP BY ALL
ORDER BY minute, cluster_id, node

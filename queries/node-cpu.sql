-- question: How busy is each node, minute by minute?
-- note: A node is its scrape target where Fluent Bit adds `instance`; by address alone two nodes of one host are one. A cluster's mean is sum(avg_cpu * cores) / sum(cores). The published query groups by metric_NodeAddress, which Ray's node metrics do not have.
-- column: minute: UTC minute of event time
-- column: cluster_id: label or X-P-Cluster-Id header, else what another metric of the node or session says
-- column: node: scrape target, else address
-- column: avg_cpu: mean CPU use of the minute, 0 to 100
-- column: max_cpu: highest CPU use of the minute, 0 to 100
-- column: cores: CPUs of the node
SELECT minute,
       coalesce(nullif(cluster_key, ''), t.cluster_id) AS cluster_id,
       ray_node(instance_key, address_key) AS node,
       avg_cpu, max_cpu, cores
FROM (  -- as in ray_nodes, which reads much more
  SELECT minute, instance_key, session_key, address_key, cluster_key,
         avg(data_point_value) FILTER (metric_name = 'ray_node_cpu_utilization') AS avg_cpu,
         max(data_point_value) FILTER (metric_name = 'ray_node_cpu_utilization') AS max_cpu,
         max(data_point_value) FILTER (metric_name = 'ray_node_cpu_count') AS cores
  FROM ray_samples
  WHERE metric_name IN ('ray_node_cpu_utilization', 'ray_node_cpu_count')
  GROUP BY ALL
)
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
ORDER BY ALL

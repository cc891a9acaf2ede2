-- question: How busy are each node's GPUs and their memory, minute by minute?
-- note: No rows where no node has a GPU that Ray reports. A mean over the node's GPUs: one that works and seven that wait are 12.5 %.
-- column: minute: UTC minute of event time
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else address
-- column: gpus: GPUs of the node
-- column: used_pct: mean use over the minute and all of them, 0 to 100
-- column: memory_used_bytes: mean of the minute, all of them together
-- column: memory_used_pct: share of what they have together, 0 to 100
SELECT minute,
       coalesce(nullif(cluster_key, ''), t.cluster_id) AS cluster_id,
       ray_node(instance_key, address_key) AS node,
       gpus, used_pct,
       gpus * 1048576 * memory_used AS memory_used_bytes,
       100 * memory_used / nullif(memory_used + memory_free, 0) AS memory_used_pct
FROM (  -- as in ray_nodes, which reads much more
  SELECT minute, instance_key, session_key, address_key, cluster_key,
         count(DISTINCT metric_GpuIndex) AS gpus,
         avg(data_point_value)
           FILTER (metric_name = 'ray_node_gpus_utilization') AS used_pct,
         -- in MiB, a series for each GPU
         avg(data_point_value)
           FILTER (metric_name = 'ray_node_gram_used') AS memory_used,
         avg(data_point_value)
           FILTER (metric_name = 'ray_node_gram_available') AS memory_free
  FROM ray_samples
  WHERE metric_name IN ('ray_node_gpus_utilization', 'ray_node_gram_used',
                        'ray_node_gram_available')
  GROUP BY ALL
)
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
WHERE gpus > 0
ORDER BY minute, cluster_id, node

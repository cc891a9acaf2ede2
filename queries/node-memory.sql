-- question: How full is each node's memory, minute by minute?
-- note: In a container the limit that counts is the cgroup's, so that is used where Ray reports it. Ray begins to kill workers at 95 %.
-- column: minute: UTC minute of event time
-- column: cluster_id: label or X-P-Cluster-Id header, else what another metric of the node or session says
-- column: node: scrape target, else address
-- column: used_bytes: most memory in use within the minute
-- column: total_bytes: memory that the node may use
-- column: used_pct: highest share in use within the minute, 0 to 100
SELECT minute,
       coalesce(nullif(cluster_key, ''), t.cluster_id) AS cluster_id,
       ray_node(instance_key, address_key) AS node,
       used_bytes, total_bytes, 100 * used_bytes / nullif(total_bytes, 0) AS used_pct
FROM (  -- as in ray_nodes, which reads much more
  SELECT minute, instance_key, session_key, address_key, cluster_key,
         max(data_point_value) FILTER (metric_name = 'ray_node_cgroup_mem_used') AS group_used,
         max(data_point_value) FILTER (metric_name = 'ray_node_cgroup_mem_total') AS group_total,
         group_used IS NOT NULL AND group_total IS NOT NULL AS is_grouped,
         if(is_grouped, group_used,
            max(data_point_value) FILTER (metric_name = 'ray_node_mem_used')) AS used_bytes,
         if(is_grouped, group_total,
            max(data_point_value) FILTER (metric_name = 'ray_node_mem_total')) AS total_bytes
  FROM ray_samples
  WHERE metric_name IN ('ray_node_mem_used', 'ray_node_mem_total',
                        'ray_node_cgroup_mem_used', 'ray_node_cgroup_mem_total')
  GROUP BY minute, instance_key, session_key, address_key, cluster_key
)
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
ORDER BY ALL

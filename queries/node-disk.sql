-- question: How full is each node's disk, and how much is read and written, minute by minute?
-- note: Ray makes no more objects on a node whose disk is full to 95 %. Raylets on one host each report the disk of the host: do not add them up.
-- parameter: min_pct = 0: only minutes in which the disk was at least this full, 0 to 100
-- column: minute: UTC minute of event time
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else address
-- column: used_bytes: most in use within the minute
-- column: used_pct: highest share in use within the minute, 0 to 100
-- column: read_bytes_per_second: mean of the minute
-- column: written_bytes_per_second: mean of the minute
SELECT minute,
       coalesce(nullif(cluster_key, ''), t.cluster_id) AS cluster_id,
       ray_node(instance_key, address_key) AS node,
       used_bytes, used_pct, read_bytes_per_second, written_bytes_per_second
FROM (  -- as in ray_nodes, which reads much more
  SELECT minute, instance_key, session_key, address_key, cluster_key,
         max(data_point_value)
           FILTER (metric_name = 'ray_node_disk_usage') AS used_bytes,
         max(data_point_value)
           FILTER (metric_name = 'ray_node_disk_utilization_percentage') AS used_pct,
         avg(data_point_value)
           FILTER (metric_name = 'ray_node_disk_io_read_speed') AS read_bytes_per_second,
         avg(data_point_value)
           FILTER (metric_name = 'ray_node_disk_io_write_speed') AS written_bytes_per_second
  FROM ray_samples
  WHERE metric_name IN ('ray_node_disk_usage', 'ray_node_disk_utilization_percentage',
                        'ray_node_disk_io_read_speed', 'ray_node_disk_io_write_speed')
  GROUP BY ALL
)
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
WHERE $min_pct::DOUBLE <= 0 OR used_pct >= $min_pct::DOUBLE
ORDER BY minute, cluster_id, node

-- question: How much does each node send and receive, minute by minute?
-- note: The traffic of the whole host, not only Ray's. Raylets on one host each report the same: do not add them up.
-- column: minute: UTC minute of event time
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else address
-- column: received_bytes_per_second: mean of the minute
-- column: sent_bytes_per_second: mean of the minute
SELECT minute,
       coalesce(nullif(cluster_key, ''), t.cluster_id) AS cluster_id,
       ray_node(instance_key, address_key) AS node,
       received_bytes_per_second, sent_bytes_per_second
FROM (  -- as in ray_nodes, which reads much more
  SELECT minute, instance_key, session_key, address_key, cluster_key,
         avg(data_point_value)
           FILTER (metric_name = 'ray_node_network_receive_speed') AS received_bytes_per_second,
         avg(data_point_value)
           FILTER (metric_name = 'ray_node_network_send_speed') AS sent_bytes_per_second
  FROM ray_samples
  WHERE metric_name IN ('ray_node_network_receive_speed', 'ray_node_network_send_speed')
  GROUP BY ALL
)
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
ORDER BY minute, cluster_id, node

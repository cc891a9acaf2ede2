-- question: How much does each node send and receive, minute by minute?
-- note: The traffic of the whole host, not only Ray's. Raylets on one host each report the same: do not add them up.
-- column: minute: UTC minute of event time
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else address
-- column: received_bytes_per_second: mean of the minute
-- column: sent_bytes_per_second: mean of the minute
SELECT time AS minute, cluster_id, node,
       network_received_bytes_per_second AS received_bytes_per_second,
       network_sent_bytes_per_second AS sent_bytes_per_second
FROM ray_nodes
WHERE coalesce(network_received_bytes_per_second, network_sent_bytes_per_second) IS NOT NULL
ORDER BY minute, cluster_id, node

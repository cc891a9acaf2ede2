-- question: How much does each node send and receive, minute by minute?
-- note: The traffic of the whole host, not only Ray's. Raylets on one host each report the same: do not add them up.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else the node's address
-- column: network_received_bytes_per_second: mean of the minute
-- column: network_sent_bytes_per_second: mean of the minute
SELECT minute, cluster_id, node, network_received_bytes_per_second, network_sent_bytes_per_second
FROM ray_node_minutes(['network'])
ORDER BY minute, cluster_id, node

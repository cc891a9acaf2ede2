-- question: How full is each node's memory, minute by minute?
-- note: In a container the limit that counts is the cgroup's, so that is used where Ray reports it. Ray begins to kill workers at 95 %.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else the node's address
-- column: memory_used_bytes: most memory in use within the minute
-- column: memory_total_bytes: memory that the node may use
-- column: memory_used_pct: highest share in use within the minute, 0 to 100
SELECT minute, cluster_id, node, memory_used_bytes, memory_total_bytes, memory_used_pct
FROM ray_node_minutes(['memory'])
ORDER BY ALL

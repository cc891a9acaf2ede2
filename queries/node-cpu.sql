-- question: How busy is each node, minute by minute?
-- note: A node is its scrape target where Fluent Bit adds `instance`; by address alone two nodes of one host are one. A cluster's mean is sum(cpu_mean_pct * cores) / sum(cores). The published query groups by metric_NodeAddress, which Ray's node metrics do not have.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else the node's address
-- column: cpu_mean_pct: mean CPU use of the minute, 0 to 100
-- column: cpu_peak_pct: highest CPU use of the minute, 0 to 100
-- column: cores: CPUs of the node
SELECT minute, cluster_id, node, cpu_mean_pct, cpu_peak_pct, cores
FROM ray_node_minutes(['cpu'])
ORDER BY ALL

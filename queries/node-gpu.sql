-- question: How busy are each node's GPUs and their memory, minute by minute?
-- note: No rows where no node has a GPU that Ray reports. A mean over the node's GPUs: one that works and seven that wait are 12.5 %.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else the node's address
-- column: gpus: GPUs of the node
-- column: gpu_mean_pct: mean use over the minute and all of them, 0 to 100
-- column: gpu_memory_used_bytes: mean of the minute, all of them together
-- column: gpu_memory_used_pct: share of what they have together, 0 to 100
SELECT minute, cluster_id, node, gpus, gpu_mean_pct, gpu_memory_used_bytes, gpu_memory_used_pct
FROM ray_node_minutes(['gpu'])
WHERE gpus > 0
ORDER BY minute, cluster_id, node

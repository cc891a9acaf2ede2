-- about: load of each node, minute by minute: CPU, memory, disk, network, GPU
-- note: In a container the memory limit that counts is the cgroup's, so that is used where Ray reports it. For a whole cluster weight by cores: sum(cpu_mean_pct * cores) / sum(cores).
-- note: Two raylets on one host have equal labels: without `instance` they are one node here. Where less is asked, ray_node_minutes is faster: it reads only the families that it is given.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target, else the node's address
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target
-- column: is_head: whether the head runs here
-- column: cores: CPUs of the node
-- column: cpu_mean_pct: mean CPU use, 0 to 100
-- column: cpu_peak_pct: highest in one scrape
-- column: memory_used_bytes: highest use in the minute
-- column: memory_total_bytes: memory that the node may use
-- column: memory_used_pct: 0 to 100; Ray begins to kill workers at 95
-- column: disk_used_bytes: highest use in the minute
-- column: disk_used_pct: 0 to 100; objects cannot be created from 95 on
-- column: disk_read_bytes_per_second: mean
-- column: disk_written_bytes_per_second: mean
-- column: network_received_bytes_per_second: mean
-- column: network_sent_bytes_per_second: mean
-- column: gpus: GPUs of the node; null without any
-- column: gpu_mean_pct: mean use over all of them, 0 to 100
-- column: gpu_memory_used_bytes: mean, of all of them together
-- column: gpu_memory_total_bytes: what they have together
-- column: gpu_memory_used_pct: share of that, 0 to 100
-- example: SELECT minute, ray_cluster_cpu_pct(cpu_mean_pct, cores) AS cluster_cpu_pct FROM ray_nodes GROUP BY ALL ORDER BY minute
-- needs: ray_node_minutes
CREATE VIEW ray_nodes AS
SELECT minute, cluster_id, session, node, node_from, instance, is_head, cores,
       cpu_mean_pct, cpu_peak_pct, memory_used_bytes, memory_total_bytes, memory_used_pct,
       disk_used_bytes, disk_used_pct, disk_read_bytes_per_second, disk_written_bytes_per_second,
       network_received_bytes_per_second, network_sent_bytes_per_second,
       gpus, gpu_mean_pct, gpu_memory_used_bytes, gpu_memory_total_bytes, gpu_memory_used_pct
FROM ray_node_minutes(['cpu', 'memory', 'disk', 'network', 'gpu']);

-- about: what each node was busy with, minute by minute: CPU, memory, disk, network, GPU
-- note: In a container the memory limit that counts is the cgroup's, so that is used where Ray reports it. For a whole cluster weight by cores: sum(cpu_pct * cores) / sum(cores).
-- note: Two raylets on one host have equal labels: without `instance` they are one node here.
-- column: time: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target where the scrape said it, else the node's address
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target
-- column: is_head: whether the head runs here
-- column: cpu_pct: mean CPU use, 0 to 100
-- column: cpu_pct_max: highest in one scrape
-- column: cores: CPUs of the node
-- column: memory_used_bytes: most in use
-- column: memory_total_bytes: what the node may use
-- column: memory_used_pct: 0 to 100; Ray begins to kill workers at 95
-- column: disk_used_bytes: most in use
-- column: disk_used_pct: 0 to 100; objects cannot be created from 95 on
-- column: disk_read_bytes_per_second: mean
-- column: disk_written_bytes_per_second: mean
-- column: network_received_bytes_per_second: mean
-- column: network_sent_bytes_per_second: mean
-- column: gpus: GPUs of the node; null without any
-- column: gpu_pct: mean use over all of them, 0 to 100
-- column: gpu_memory_used_bytes: mean, of all of them together
-- column: gpu_memory_total_bytes: what they have together
-- example: SELECT time, sum(cpu_pct * cores) / sum(cores) AS cluster_cpu_pct FROM ray_nodes GROUP BY ALL ORDER BY time
CREATE VIEW ray_nodes AS
SELECT minute AS time,
       coalesce(nullif(cluster_key, ''), cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       ray_node(instance_key, address_key) AS node,
       ray_node_from(instance_key, address_key) AS node_from,
       nullif(instance_key, '') AS instance,
       is_head, cpu_pct, cpu_pct_max, cores,
       memory_used_bytes, memory_total_bytes,
       100 * memory_used_bytes / nullif(memory_total_bytes, 0) AS memory_used_pct,
       disk_used_bytes, disk_used_pct, disk_read_bytes_per_second, disk_written_bytes_per_second,
       network_received_bytes_per_second, network_sent_bytes_per_second,
       gpus, gpu_pct, gpu_memory_used_bytes,
       gpu_memory_used_bytes + gpu_memory_free_bytes AS gpu_memory_total_bytes
FROM (
  SELECT minute, instance_key, session_key, address_key, cluster_key,
         lower(max(metric_IsHeadNode)) = 'true' AS is_head,
         avg(data_point_value) FILTER (metric_name = 'ray_node_cpu_utilization') AS cpu_pct,
         max(data_point_value) FILTER (metric_name = 'ray_node_cpu_utilization') AS cpu_pct_max,
         max(data_point_value) FILTER (metric_name = 'ray_node_cpu_count') AS cores,
         max(data_point_value) FILTER (metric_name = 'ray_node_cgroup_mem_used') AS group_used,
         max(data_point_value) FILTER (metric_name = 'ray_node_cgroup_mem_total') AS group_total,
         group_used IS NOT NULL AND group_total IS NOT NULL AS is_grouped,
         if(is_grouped, group_used,
            max(data_point_value) FILTER (metric_name = 'ray_node_mem_used')) AS memory_used_bytes,
         if(is_grouped, group_total,
            max(data_point_value) FILTER (metric_name = 'ray_node_mem_total'))
           AS memory_total_bytes,
         max(data_point_value) FILTER (metric_name = 'ray_node_disk_usage') AS disk_used_bytes,
         max(data_point_value)
           FILTER (metric_name = 'ray_node_disk_utilization_percentage') AS disk_used_pct,
         avg(data_point_value)
           FILTER (metric_name = 'ray_node_disk_io_read_speed') AS disk_read_bytes_per_second,
         avg(data_point_value)
           FILTER (metric_name = 'ray_node_disk_io_write_speed') AS disk_written_bytes_per_second,
         avg(data_point_value) FILTER (metric_name = 'ray_node_network_receive_speed')
           AS network_received_bytes_per_second,
         avg(data_point_value) FILTER (metric_name = 'ray_node_network_send_speed')
           AS network_sent_bytes_per_second,
         nullif(count(DISTINCT metric_GpuIndex), 0) AS gpus,
         avg(data_point_value) FILTER (metric_name = 'ray_node_gpus_utilization') AS gpu_pct,
         -- Ray reports these two in MiB, a series for each GPU
         gpus * 1048576 * avg(data_point_value)
           FILTER (metric_name = 'ray_node_gram_used') AS gpu_memory_used_bytes,
         gpus * 1048576 * avg(data_point_value)
           FILTER (metric_name = 'ray_node_gram_available') AS gpu_memory_free_bytes
  FROM ray_samples
  WHERE metric_name IN (
    'ray_node_cpu_utilization', 'ray_node_cpu_count', 'ray_node_mem_used', 'ray_node_mem_total',
    'ray_node_cgroup_mem_used', 'ray_node_cgroup_mem_total', 'ray_node_disk_usage',
    'ray_node_disk_utilization_percentage', 'ray_node_disk_io_read_speed',
    'ray_node_disk_io_write_speed', 'ray_node_network_receive_speed',
    'ray_node_network_send_speed', 'ray_node_gpus_utilization', 'ray_node_gram_used',
    'ray_node_gram_available')
  GROUP BY minute, instance_key, session_key, address_key, cluster_key
)
LEFT JOIN ray_targets AS t USING (session_key, instance_key);

-- about: what each node was busy with, minute by minute, from the families of metrics that are named and no other
-- note: The other columns are null, and their metrics are not read. ray_nodes and ray_object_store are made of it.
-- note: In a container the memory limit that counts is the cgroup's, so that is used where Ray reports it. Fullness of the object store is used / (used + available): Ray's own dashboard adds what was spilled and can show far more than 100 %.
-- note: Two raylets on one host have equal labels: without `instance` they are one node here.
-- parameter: families: list of cpu, memory, disk, network, gpu, object_store
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target, else the node's address
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target
-- column: scrapes: scrapes in the minute; of the family cpu
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
-- column: object_store_used_bytes: most in use
-- column: object_store_capacity_bytes: size of the store
-- column: object_store_used_pct: highest fullness, 0 to 100
-- column: on_disk_bytes: most bytes of objects held on disk at a time, because they were spilled
-- column: fallback_bytes: most bytes allocated on disk as a last resort
-- example: SELECT minute, node, cpu_mean_pct, memory_used_pct FROM ray_node_minutes(['cpu', 'memory']) ORDER BY ALL
-- needs: ray_cluster, ray_family_metrics, ray_node, ray_node_from, ray_samples, ray_targets
CREATE MACRO ray_node_minutes(families) AS TABLE
SELECT minute, ray_cluster(cluster_key, cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       ray_node(instance_key, address_key) AS node,
       ray_node_from(instance_key, address_key) AS node_from,
       nullif(instance_key, '') AS instance,
       m.scrapes, is_head, cores, cpu_mean_pct, cpu_peak_pct,
       if(is_grouped, group_used, host_used) AS memory_used_bytes,
       if(is_grouped, group_total, host_total) AS memory_total_bytes,
       100 * memory_used_bytes / nullif(memory_total_bytes, 0) AS memory_used_pct,
       disk_used_bytes, disk_used_pct, disk_read_bytes_per_second, disk_written_bytes_per_second,
       network_received_bytes_per_second, network_sent_bytes_per_second,
       gpus, gpu_mean_pct,
       gpus * gram_used AS gpu_memory_used_bytes,
       gpus * (gram_used + gram_available) AS gpu_memory_total_bytes,
       100 * gram_used / nullif(gram_used + gram_available, 0) AS gpu_memory_used_pct,
       store_used AS object_store_used_bytes,
       store_used + store_available AS object_store_capacity_bytes,
       100 * store_used / nullif(store_used + store_available, 0) AS object_store_used_pct,
       coalesce(on_disk_bytes, 0) AS on_disk_bytes, coalesce(fallback_bytes, 0) AS fallback_bytes
FROM (
  SELECT minute, instance_key, session_key, address_key, cluster_key,
         lower(max(metric_IsHeadNode)) = 'true' AS is_head,
         count(*) FILTER (metric_name = 'ray_node_cpu_count') AS scrapes,
         max(data_point_value) FILTER (metric_name = 'ray_node_cpu_count') AS cores,
         avg(data_point_value) FILTER (metric_name = 'ray_node_cpu_utilization') AS cpu_mean_pct,
         max(data_point_value) FILTER (metric_name = 'ray_node_cpu_utilization') AS cpu_peak_pct,
         max(data_point_value) FILTER (metric_name = 'ray_node_mem_used') AS host_used,
         max(data_point_value) FILTER (metric_name = 'ray_node_mem_total') AS host_total,
         max(data_point_value) FILTER (metric_name = 'ray_node_cgroup_mem_used') AS group_used,
         max(data_point_value) FILTER (metric_name = 'ray_node_cgroup_mem_total') AS group_total,
         group_used IS NOT NULL AND group_total IS NOT NULL AS is_grouped,
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
         avg(data_point_value) FILTER (metric_name = 'ray_node_gpus_utilization') AS gpu_mean_pct,
         -- in MiB, a series for each GPU
         1048576 * avg(data_point_value)
           FILTER (metric_name = 'ray_node_gram_used') AS gram_used,
         1048576 * avg(data_point_value)
           FILTER (metric_name = 'ray_node_gram_available') AS gram_available,
         -- of one size: when most is used, least is available
         max(data_point_value)
           FILTER (metric_name = 'ray_object_store_used_memory') AS store_used,
         min(data_point_value)
           FILTER (metric_name = 'ray_object_store_available_memory') AS store_available,
         max(data_point_value)
           FILTER (metric_name = 'ray_object_store_fallback_memory') AS fallback_bytes,
         -- a node has one such series
         max(data_point_value) FILTER (metric_name = 'ray_object_store_memory') AS on_disk_bytes
  FROM ray_samples
  WHERE metric_name IN ray_family_metrics(families)
    AND (metric_name <> 'ray_object_store_memory' OR metric_Location = 'SPILLED')
  GROUP BY minute, instance_key, session_key, address_key, cluster_key
) AS m
LEFT JOIN ray_targets AS t USING (session_key, instance_key);

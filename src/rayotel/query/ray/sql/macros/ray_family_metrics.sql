-- about: the metrics behind each family of ray_node_minutes; an error for a family that there is not
-- parameter: families: list of cpu, memory, disk, network, gpu, object_store
-- example: SELECT ray_family_metrics(['cpu', 'memory'])
CREATE MACRO ray_family_metrics(families) AS flatten(list_transform(
  families::ENUM ('cpu', 'memory', 'disk', 'network', 'gpu', 'object_store')[],
  lambda family: MAP {
    'cpu': ['ray_node_cpu_count', 'ray_node_cpu_utilization'],
    'memory': ['ray_node_mem_used', 'ray_node_mem_total',
               'ray_node_cgroup_mem_used', 'ray_node_cgroup_mem_total'],
    'disk': ['ray_node_disk_usage', 'ray_node_disk_utilization_percentage',
             'ray_node_disk_io_read_speed', 'ray_node_disk_io_write_speed'],
    'network': ['ray_node_network_receive_speed', 'ray_node_network_send_speed'],
    'gpu': ['ray_node_gpus_utilization', 'ray_node_gram_used', 'ray_node_gram_available'],
    'object_store': ['ray_object_store_used_memory', 'ray_object_store_available_memory',
                     'ray_object_store_fallback_memory', 'ray_object_store_memory']
  }[family::VARCHAR]
));

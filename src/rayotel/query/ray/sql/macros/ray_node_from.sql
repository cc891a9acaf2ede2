-- about: which of the two ray_node is: instance or address
-- parameter: instance_key: as in ray_samples
-- parameter: address_key: as in ray_samples
-- example: SELECT DISTINCT ray_node_from(instance_key, address_key) AS node_from FROM ray_samples WHERE metric_name = 'ray_node_cpu_count'
CREATE MACRO ray_node_from(instance_key, address_key) AS
  CASE WHEN instance_key <> '' THEN 'instance' WHEN address_key <> '' THEN 'address' END;

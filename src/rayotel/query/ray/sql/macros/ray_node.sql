-- about: what a node is called: its scrape target, else its address
-- parameter: instance_key: as in ray_samples
-- parameter: address_key: as in ray_samples
-- example: SELECT DISTINCT ray_node(instance_key, address_key) AS node FROM ray_samples WHERE metric_name = 'ray_node_cpu_count'
CREATE MACRO ray_node(instance_key, address_key) AS
  coalesce(nullif(instance_key, ''), nullif(address_key, ''));

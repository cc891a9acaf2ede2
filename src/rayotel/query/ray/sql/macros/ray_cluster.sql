-- about: which cluster a sample is of: its own label or header, else what is known of its target
-- parameter: cluster_key: as in ray_samples
-- parameter: known: cluster_id of the target, as in ray_targets
-- example: SELECT DISTINCT ray_cluster(cluster_key, t.cluster_id) AS cluster FROM ray_samples AS s LEFT JOIN ray_targets AS t USING (session_key, instance_key) WHERE metric_name = 'ray_node_cpu_count'
CREATE MACRO ray_cluster(cluster_key, known) AS
  coalesce(nullif(cluster_key, ''), known);

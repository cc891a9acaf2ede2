-- about: an aggregate: CPU use of several nodes together, each weighted by its cores, 0 to 100
-- note: A node that reports its cores and not its use is left out.
-- parameter: cpu_pct: CPU use of a node, 0 to 100
-- parameter: cores: CPUs of the node
-- example: SELECT minute, ray_cluster_cpu_pct(cpu_mean_pct, cores) AS cluster_cpu_pct FROM ray_node_minutes(['cpu']) GROUP BY ALL ORDER BY minute
CREATE MACRO ray_cluster_cpu_pct(cpu_pct, cores) AS
  sum(cpu_pct * cores) / nullif(sum(if(cpu_pct IS NULL, NULL, cores)), 0);

-- question: Which nodes were the hottest, by CPU, memory or object store?
-- note: Means are over the minutes in which a node reported, so a node that lived for an hour can come before one that was there all day. Two raylets on one host both report the CPU and memory of the host.
-- parameter: by = cpu: cpu, memory or object_store: what to rank by, its mean first
-- parameter: limit = 20: how many nodes
-- column: rank: 1 for the hottest
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else address
-- column: minutes: minutes in which it reported
-- column: cores: CPUs of the node
-- column: cpu_mean_pct: mean CPU use, 0 to 100
-- column: cpu_peak_pct: highest CPU use of a scrape
-- column: memory_mean_pct: mean over minutes of the most memory in use, 0 to 100
-- column: memory_peak_pct: most memory in use
-- column: object_store_mean_pct: mean over minutes of the highest fullness, 0 to 100
-- column: object_store_peak_pct: highest fullness
WITH minutes AS (  -- as in ray_nodes and ray_object_store, which read much more
  SELECT minute, instance_key, session_key, cluster_key,
         ray_node(instance_key, address_key) AS node,
         max(data_point_value) FILTER (metric_name = 'ray_node_cpu_count') AS cores,
         avg(data_point_value) FILTER (metric_name = 'ray_node_cpu_utilization') AS cpu_pct,
         max(data_point_value) FILTER (metric_name = 'ray_node_cpu_utilization') AS cpu_pct_max,
         max(data_point_value) FILTER (metric_name = 'ray_node_mem_used') AS node_used,
         max(data_point_value) FILTER (metric_name = 'ray_node_mem_total') AS node_total,
         max(data_point_value) FILTER (metric_name = 'ray_node_cgroup_mem_used') AS group_used,
         max(data_point_value) FILTER (metric_name = 'ray_node_cgroup_mem_total') AS group_total,
         max(data_point_value)
           FILTER (metric_name = 'ray_object_store_used_memory') AS store_used,
         min(data_point_value)
           FILTER (metric_name = 'ray_object_store_available_memory') AS store_available,
         100 * if(group_used IS NULL OR group_total IS NULL, node_used / nullif(node_total, 0),
                  group_used / nullif(group_total, 0)) AS memory_pct,
         100 * store_used / nullif(store_used + store_available, 0) AS store_pct
  FROM ray_samples
  WHERE metric_name IN (
    'ray_node_cpu_count', 'ray_node_cpu_utilization', 'ray_node_mem_used', 'ray_node_mem_total',
    'ray_node_cgroup_mem_used', 'ray_node_cgroup_mem_total', 'ray_object_store_used_memory',
    'ray_object_store_available_memory')
  GROUP BY ALL
),
found AS (
  SELECT coalesce(nullif(cluster_key, ''), t.cluster_id) AS cluster_id, node,
         count(DISTINCT minute) AS minutes, max(cores) AS cores,
         avg(cpu_pct) AS cpu_mean_pct, max(cpu_pct_max) AS cpu_peak_pct,
         avg(memory_pct) AS memory_mean_pct, max(memory_pct) AS memory_peak_pct,
         avg(store_pct) AS object_store_mean_pct, max(store_pct) AS object_store_peak_pct
  FROM minutes
  LEFT JOIN ray_targets AS t USING (session_key, instance_key)
  GROUP BY ALL
),
ranked AS (
  SELECT *,
         CASE $by
           WHEN 'cpu' THEN cpu_mean_pct
           WHEN 'memory' THEN memory_mean_pct
           WHEN 'object_store' THEN object_store_mean_pct
           ELSE error('by is cpu, memory or object_store')::DOUBLE
         END AS mean_pct,
         CASE $by
           WHEN 'cpu' THEN cpu_peak_pct
           WHEN 'memory' THEN memory_peak_pct
           ELSE object_store_peak_pct
         END AS peak_pct
  FROM found
)
SELECT row_number() OVER (
         ORDER BY mean_pct DESC NULLS LAST, peak_pct DESC NULLS LAST, cluster_id, node) AS rank,
       cluster_id, node, minutes, cores, cpu_mean_pct, cpu_peak_pct, memory_mean_pct,
       memory_peak_pct, object_store_mean_pct, object_store_peak_pct
FROM ranked
ORDER BY rank
LIMIT $limit::BIGINT

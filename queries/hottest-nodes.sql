-- question: Which nodes were the hottest, by CPU, memory or object store?
-- note: Means are over the minutes in which a node reported, so a node that lived for an hour can come before one that was there all day. Two raylets on one host both report the CPU and memory of the host.
-- parameter: by = cpu: cpu, memory or object_store: what to rank by, its mean first
-- parameter: limit = 20: how many nodes
-- column: rank: 1 for the hottest
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else the node's address
-- column: minutes: minutes in which it reported
-- column: cores: CPUs of the node
-- column: cpu_mean_pct: mean CPU use, 0 to 100
-- column: cpu_peak_pct: highest CPU use of a scrape
-- column: memory_mean_pct: mean over minutes of the most memory in use, 0 to 100
-- column: memory_peak_pct: most memory in use
-- column: object_store_mean_pct: mean over minutes of the highest fullness, 0 to 100
-- column: object_store_peak_pct: highest fullness
WITH found AS (
  SELECT cluster_id, node, count(DISTINCT minute) AS minutes, max(cores) AS cores,
         avg(cpu_mean_pct) AS cpu_mean_pct, max(cpu_peak_pct) AS cpu_peak_pct,
         avg(memory_used_pct) AS memory_mean_pct, max(memory_used_pct) AS memory_peak_pct,
         avg(object_store_used_pct) AS object_store_mean_pct,
         max(object_store_used_pct) AS object_store_peak_pct
  FROM ray_node_minutes(['cpu', 'memory', 'object_store'])
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

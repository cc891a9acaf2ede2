-- question: Does every endpoint report, and without gaps?
-- note: Ray forgets a gauge 20 s after its last report: with scrapes further apart, failures of short jobs are lost. `last_seen` long before that of the others is a node that died or a target that moved.
-- column: cluster_id: label or X-P-Cluster-Id header, else what another metric of the node or session says
-- column: node: scrape target, else address
-- column: scrapes: scrapes that arrived
-- column: points_per_scrape: mean data points of one scrape
-- column: longest_gap_seconds: longest time between two scrapes
-- column: last_seen: time of the last scrape
WITH scrapes AS (
  SELECT metric_instance AS instance, max(metric_SessionName) AS session, time_unix_nano AS at,
         coalesce(nullif(metric_instance, ''), metric_NodeAddress) AS node, count(*) AS points,
         max(coalesce(metric_cluster_id, cluster_id)) AS cluster_id
  FROM raymetrics GROUP BY metric_instance, time_unix_nano, node
),
gaps AS (
  SELECT *, at - lag(at) OVER (PARTITION BY node ORDER BY at) AS gap FROM scrapes
),
instance_cluster AS (
  SELECT instance, max(cluster_id) AS cluster_id FROM scrapes GROUP BY instance
),
session_cluster AS (
  SELECT session, max(cluster_id) AS cluster_id FROM scrapes GROUP BY session
)
SELECT coalesce(i.cluster_id, s.cluster_id) AS cluster_id,
       node,
       count(DISTINCT at) AS scrapes,
       sum(points) / count(DISTINCT at) AS points_per_scrape,
       epoch(max(gap)) AS longest_gap_seconds,
       max(at) AS last_seen
FROM gaps
LEFT JOIN instance_cluster AS i USING (instance)
LEFT JOIN session_cluster AS s USING (session)
GROUP BY ALL
ORDER BY cluster_id, node

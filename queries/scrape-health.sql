-- question: Does every endpoint report, and without gaps?
-- note: Ray forgets a gauge 20 s after its last report: with scrapes further apart, failures of short jobs are lost. `last_seen` long before that of the others is a node that died or a target that moved.
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else the node's address
-- column: scrapes: scrapes that arrived
-- column: longest_gap_seconds: longest time between two scrapes
-- column: gaps: times of more than 20 seconds between two scrapes
-- column: last_seen: time of the last scrape
-- column: is_missing: whether it is silent for more than a minute while others of its session report
-- column: latest_arrival_seconds: longest time that a scrape took to arrive
SELECT cluster_id, node, scrapes, longest_gap_seconds, gaps, last_seen, is_missing,
       latest_arrival_seconds
FROM ray_series_health
ORDER BY ALL

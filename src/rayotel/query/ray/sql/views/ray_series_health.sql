-- about: whether every scrape target reports, without gaps and in time
-- note: Ray forgets a gauge 20 s after its last report: with scrapes further apart, failures of short jobs are lost. A target that was last seen long before the others of its session is a node that died or a target that moved.
-- column: time: last scrape, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target, else the node's address
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target
-- column: scrapes: that arrived
-- column: first_seen: first of them
-- column: last_seen: last of them
-- column: typical_seconds: usual time between two
-- column: longest_gap_seconds: longest time between two
-- column: gaps: times of more than 20 seconds between two
-- column: silent_seconds: from its last scrape to the last of its whole session
-- column: is_missing: whether it is silent for more than a minute while others report
-- column: latest_arrival_seconds: longest time that a scrape took to arrive here
-- example: SELECT node, last_seen, silent_seconds FROM ray_series_health WHERE is_missing
-- needs: ray_cluster, ray_gauge_kept_seconds, ray_node, ray_node_from, ray_scrapes, ray_targets
CREATE VIEW ray_series_health AS
WITH spaced AS (
  SELECT series_id, instance_key, session_key, address_key, cluster_key,
         time AS moment, arrived_at,
         epoch(time - lag(time) OVER (PARTITION BY series_id ORDER BY time)) AS gap
  FROM ray_scrapes WHERE endpoint <> 'info'  -- which has no session
),
by_series AS (
  SELECT series_id, any_value(instance_key) AS instance_key,
         any_value(session_key) AS session_key, any_value(address_key) AS address_key,
         any_value(cluster_key) AS cluster_key,
         -- a scrape that was sent twice is one
         count(*) FILTER (gap IS NULL OR gap > 0) AS scrapes,
         min(moment) AS first_seen, max(moment) AS last_seen,
         mode(round(gap)) AS typical_seconds, max(gap) AS longest_gap_seconds,
         count(*) FILTER (gap > ray_gauge_kept_seconds()) AS gaps,
         max(epoch(arrived_at - moment)) AS latest_arrival_seconds
  FROM spaced GROUP BY series_id
),
targets AS (
  SELECT instance_key, session_key, address_key, max(cluster_key) AS cluster_key,
         max(scrapes) AS scrapes, min(first_seen) AS first_seen, max(last_seen) AS last_seen,
         arg_max(typical_seconds, scrapes) AS typical_seconds,
         arg_max(longest_gap_seconds, scrapes) AS longest_gap_seconds,
         arg_max(gaps, scrapes) AS gaps,
         max(latest_arrival_seconds) AS latest_arrival_seconds
  FROM by_series GROUP BY instance_key, session_key, address_key
)
SELECT s.last_seen AS time,
       ray_cluster(s.cluster_key, t.cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       ray_node(instance_key, address_key) AS node,
       ray_node_from(instance_key, address_key) AS node_from,
       nullif(instance_key, '') AS instance,
       s.scrapes, s.first_seen, s.last_seen, typical_seconds, longest_gap_seconds, gaps,
       epoch(max(s.last_seen) OVER (PARTITION BY session_key) - s.last_seen) AS silent_seconds,
       silent_seconds > 60 AS is_missing,
       latest_arrival_seconds
FROM targets AS s LEFT JOIN ray_targets AS t USING (session_key, instance_key);

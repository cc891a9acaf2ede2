-- about: whether every scrape target reports, without gaps and in time
-- note: Ray forgets a gauge 20 s after its last report: with scrapes further apart, failures of short jobs are lost. A target that was last seen long before the others of its session is a node that died or a target that moved.
-- column: time: last scrape, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target where the scrape said it, else the node's address
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
CREATE VIEW ray_series_health AS
WITH scrapes AS (
  SELECT instance_key, session_key, address_key, max(nullif(cluster_key, '')) AS cluster_key,
         time_unix_nano AS moment, max(p_timestamp) AS arrived
  FROM ray_samples  -- of each kind of endpoint a metric that is there once in every scrape
  WHERE metric_name IN ('ray_node_cpu_count', 'autoscaler_active_nodes',
                        'ray_dashboard_event_loop_lag_seconds')
  GROUP BY ALL
),
spaced AS (
  SELECT *, epoch(moment - lag(moment) OVER (
    PARTITION BY instance_key, session_key, address_key ORDER BY moment)) AS gap
  FROM scrapes
),
targets AS (
  SELECT instance_key, session_key, address_key, max(cluster_key) AS cluster_key,
         count(*) AS scrapes, min(moment) AS first_seen, max(moment) AS last_seen,
         mode(round(gap)) AS typical_seconds, max(gap) AS longest_gap_seconds,
         count(*) FILTER (gap > 20) AS gaps,
         max(epoch(arrived - moment)) AS latest_arrival_seconds
  FROM spaced GROUP BY ALL
)
SELECT s.last_seen AS time,
       coalesce(s.cluster_key, t.cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       coalesce(nullif(instance_key, ''), nullif(address_key, '')) AS node,
       CASE WHEN instance_key <> '' THEN 'instance' WHEN address_key <> '' THEN 'address' END
         AS node_from,
       nullif(instance_key, '') AS instance,
       s.scrapes, s.first_seen, s.last_seen, typical_seconds, longest_gap_seconds, gaps,
       epoch(max(s.last_seen) OVER (PARTITION BY session_key) - s.last_seen) AS silent_seconds,
       silent_seconds > 60 AS is_missing,
       latest_arrival_seconds
FROM targets AS s LEFT JOIN ray_targets AS t USING (session_key, instance_key);

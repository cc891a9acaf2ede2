-- about: every life of a cluster that is kept: the index of what was there
-- column: time: first sample or event, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: always null: it is of the whole cluster
-- column: instance: always null
-- column: first_seen: first sample or event in the time range
-- column: last_seen: last sample or event
-- column: nodes: nodes that were there at some time
-- column: cores: most CPUs at a time
-- column: jobs: jobs that were there, Ray's own left out
-- column: has_metrics: whether any metrics are kept of it
-- column: has_events: whether any events are
-- example: SELECT * FROM ray_sessions ORDER BY first_seen
-- needs: ray_jobs, ray_samples, ray_targets, rayevents
CREATE VIEW ray_sessions AS
WITH scraped AS (
  SELECT session, max(cluster_id) AS cluster_id, min(first_seen) AS first_seen,
         max(last_seen) AS last_seen
  FROM ray_targets WHERE session IS NOT NULL GROUP BY session
),
reported AS (
  SELECT session_key AS session, instance_key, address_key, minute,
         max(data_point_value) AS cores
  FROM ray_samples WHERE metric_name = 'ray_node_cpu_count' GROUP BY ALL
),
sized AS (
  SELECT session, max(cores) AS cores
  FROM (SELECT session, minute, sum(cores) AS cores FROM reported GROUP BY ALL)
  GROUP BY ALL
),
nodes AS (
  SELECT session, count(*) AS nodes
  FROM (SELECT DISTINCT session, instance_key, address_key FROM reported)
  GROUP BY ALL
),
from_events AS (
  SELECT session_name AS session, max(cluster_id) AS cluster_id,
         min(time_unix_nano) AS first_seen, max(time_unix_nano) AS last_seen,
         count(DISTINCT node_id) FILTER (event_type = 'NODE_DEFINITION_EVENT') AS nodes
  FROM rayevents WHERE session_name IS NOT NULL GROUP BY session_name
),
jobs AS (
  SELECT session, count(*) FILTER (NOT coalesce(is_internal, false)) AS jobs
  FROM ray_jobs GROUP BY session
)
SELECT least(s.first_seen, e.first_seen) AS time,
       coalesce(s.cluster_id, e.cluster_id) AS cluster_id,
       coalesce(s.session, e.session) AS session,
       NULL::VARCHAR AS node, NULL::VARCHAR AS instance,
       least(s.first_seen, e.first_seen) AS first_seen,
       greatest(s.last_seen, e.last_seen) AS last_seen,
       coalesce(n.nodes, e.nodes, 0) AS nodes,
       z.cores,
       coalesce(j.jobs, 0) AS jobs,
       s.session IS NOT NULL AS has_metrics,
       e.session IS NOT NULL AS has_events
FROM scraped AS s
FULL JOIN from_events AS e ON e.session = s.session
LEFT JOIN sized AS z ON z.session = s.session
LEFT JOIN nodes AS n ON n.session = s.session
LEFT JOIN jobs AS j ON j.session = coalesce(s.session, e.session);

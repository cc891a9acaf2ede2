-- about: which scrape targets there were, of which session and cluster, and from when to when
-- note: cluster_id is, in this order: the label cluster_id or the header X-P-Cluster-Id of the target's metrics; the same of its target_info, which OTEL_RESOURCE_ATTRIBUTES sets; that of another target of the session; that of the same address in another session.
-- column: cluster_id: which cluster; null if unknown
-- column: cluster_id_from: label, target_info, session or instance: how that is known
-- column: session: Ray's session: one life of a cluster
-- column: instance: scrape target; null where the scrape did not say
-- column: first_seen: first scrape in the time range
-- column: last_seen: last scrape in the time range
-- column: scrapes: how many there were
-- column: session_key: session, '' where there is none, to join with ray_samples
-- column: instance_key: instance, '' where there is none
-- example: SELECT * FROM ray_targets ORDER BY cluster_id, session, instance
-- needs: ray_scrapes
CREATE TABLE ray_targets AS
WITH seen AS (
  SELECT instance_key, session_key, endpoint = 'info' AS is_info,
         max(cluster_id) AS cluster_id, min(first_seen) AS first_seen,
         max(last_seen) AS last_seen, max(scrapes) AS scrapes
  FROM (
    SELECT instance_key, session_key, address_key, endpoint,
           max(nullif(cluster_key, '')) AS cluster_id,
           min(time) AS first_seen, max(time) AS last_seen, count(*) AS scrapes
    FROM ray_scrapes WHERE endpoint <> 'other'
    GROUP BY ALL
  )
  GROUP BY ALL
),
informed AS (
  SELECT instance_key, max(cluster_id) AS cluster_id FROM seen
  WHERE is_info AND instance_key <> '' GROUP BY ALL
),
known AS (
  SELECT s.* REPLACE (coalesce(s.cluster_id, i.cluster_id) AS cluster_id),
         CASE WHEN s.cluster_id IS NOT NULL THEN 'label'
              WHEN i.cluster_id IS NOT NULL THEN 'target_info' END AS cluster_id_from
  FROM seen AS s LEFT JOIN informed AS i ON i.instance_key = s.instance_key
  WHERE NOT is_info
),
by_session AS (
  SELECT session_key, max(cluster_id) AS cluster_id FROM known
  WHERE session_key <> '' GROUP BY ALL
),
by_instance AS (
  SELECT instance_key, max(cluster_id) AS cluster_id FROM known
  WHERE instance_key <> '' GROUP BY ALL
)
SELECT coalesce(k.cluster_id, s.cluster_id, i.cluster_id) AS cluster_id,
       coalesce(k.cluster_id_from,
                if(s.cluster_id IS NOT NULL, 'session', NULL),
                if(i.cluster_id IS NOT NULL, 'instance', NULL)) AS cluster_id_from,
       nullif(k.session_key, '') AS session,
       nullif(k.instance_key, '') AS instance,
       k.first_seen, k.last_seen, k.scrapes, k.session_key, k.instance_key
FROM known AS k
LEFT JOIN by_session AS s ON s.session_key = k.session_key
LEFT JOIN by_instance AS i ON i.instance_key = k.instance_key;

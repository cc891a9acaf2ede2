-- about: which cluster a session belongs to, from whatever says so: metrics or events
-- column: session: Ray's session: one life of a cluster
-- column: cluster_id: which cluster; null if unknown
-- example: SELECT * FROM ray_session_clusters
-- needs: ray_targets, rayevents
CREATE TABLE ray_session_clusters AS
SELECT session, max(cluster_id) AS cluster_id
FROM (
  SELECT session, cluster_id FROM ray_targets
  UNION ALL
  SELECT session_name, cluster_id FROM rayevents WHERE cluster_id IS NOT NULL
)
WHERE session IS NOT NULL
GROUP BY session;

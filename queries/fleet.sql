-- question: Which clusters were there, when, how big, how busy, and how much failed?
-- note: A session is one life of a cluster, from `ray start` to `ray stop`; its id changes with every restart.
-- column: cluster_id: label or X-P-Cluster-Id header, else what another metric of the node or session says
-- column: session: Ray's name of this life of the cluster
-- column: nodes: nodes that reported their CPUs
-- column: first_seen: first point of the session
-- column: last_seen: last point of the session
-- column: avg_cpu: mean CPU use, each node weighted by its CPUs, 0 to 100
-- column: failed_attempts: task attempts that failed
WITH seen AS (  -- when each target was scraped, and when before
  SELECT instance, at, lag(at) OVER (PARTITION BY instance ORDER BY at) AS scrape_before,
         min(at) OVER (PARTITION BY instance) AS first_scrape
  FROM (
    SELECT DISTINCT metric_instance AS instance, time_unix_nano AS at FROM raymetrics
    WHERE metric_name IN ('target_info', 'ray_node_cpu_count', 'ray_resources', 'ray_tasks')
  )
),
failed AS (  -- owners' running totals of failed attempts
  SELECT time_unix_nano AS at, metric_instance AS instance, metric_SessionName AS session,
         metric_label_Name AS task, data_point_value AS total,
         lag(data_point_value) OVER series AS total_before, lag(time_unix_nano) OVER series AS at_before
  FROM raymetrics
  WHERE metric_name = 'ray_tasks' AND metric_State = 'FAILED'
    AND metric_label_Name NOT LIKE 'JobSupervisor.%'
    AND metric_label_Name NOT LIKE '\_ray\_internal%' ESCAPE '\'
  WINDOW series AS (PARTITION BY series_id ORDER BY time_unix_nano)
),
attempts AS (
  SELECT f.*,
         CASE
           -- totals of before the first scrape are history that nobody watched
           WHEN at_before IS NULL AND f.at - first_scrape < INTERVAL 15 SECONDS THEN 0
           WHEN at_before IS NULL THEN total
           -- gone for a while although its target was scraped: the owner left, this is a new one
           -- (without `instance`, targets cannot be told apart, and this would count totals again)
           WHEN f.at - at_before > INTERVAL 30 SECONDS AND scrape_before > at_before
                AND f.instance <> '' THEN total
           -- a drop is an owner leaving, not a reset
           ELSE greatest(total - total_before, 0)
         END AS new_attempts
  FROM failed AS f JOIN seen AS v
    ON v.at = f.at AND v.instance IS NOT DISTINCT FROM f.instance
),
clusters AS (
  SELECT metric_instance AS instance, metric_SessionName AS session,
         max(coalesce(metric_cluster_id, cluster_id)) AS cluster_id
  FROM raymetrics  -- metrics that every target has, or that alone have the label
  WHERE metric_name IN ('target_info', 'ray_node_cpu_count', 'ray_resources', 'ray_tasks',
                        'ray_component_rss_mb', 'autoscaler_active_nodes')
  GROUP BY ALL
),
instance_cluster AS (
  SELECT instance, max(cluster_id) AS cluster_id FROM clusters GROUP BY instance
),
session_cluster AS (
  SELECT session, max(cluster_id) AS cluster_id FROM clusters GROUP BY session
),
sessions AS (
  SELECT metric_SessionName AS session, min(time_unix_nano) AS first_seen,
         max(time_unix_nano) AS last_seen,
         count(DISTINCT coalesce(nullif(metric_instance, ''), metric_NodeAddress))
           FILTER (WHERE metric_name = 'ray_node_cpu_count') AS nodes
  FROM raymetrics
  WHERE metric_SessionName <> ''
    AND metric_name IN ('ray_node_cpu_count', 'ray_resources', 'ray_tasks',
                        'ray_component_rss_mb', 'autoscaler_active_nodes')
  GROUP BY ALL
),
cpu AS (
  SELECT session, sum(busy * cores) / nullif(sum(if(busy IS NULL, NULL, cores)), 0) AS avg_cpu
  FROM (
    SELECT metric_SessionName AS session, time_unix_nano,
           coalesce(nullif(metric_instance, ''), metric_NodeAddress) AS node,
           avg(data_point_value) FILTER (WHERE metric_name = 'ray_node_cpu_utilization') AS busy,
           max(data_point_value) FILTER (WHERE metric_name = 'ray_node_cpu_count') AS cores
    FROM raymetrics
    WHERE metric_name IN ('ray_node_cpu_utilization', 'ray_node_cpu_count')
    GROUP BY ALL
  )
  GROUP BY session
),
failures AS (
  SELECT session, sum(new_attempts)::BIGINT AS failed_attempts FROM attempts GROUP BY session
)
SELECT c.cluster_id, session, nodes, first_seen, last_seen, avg_cpu,
       coalesce(failed_attempts, 0) AS failed_attempts
FROM sessions
LEFT JOIN session_cluster AS c USING (session)
LEFT JOIN cpu USING (session)
LEFT JOIN failures USING (session)
ORDER BY first_seen, session

-- question: How many task attempts failed, by task and minute?
-- note: ray_tasks is a gauge of running totals per owner process: summing it over scrapes, as the published query does, counts every failure again with every scrape. Here each rise counts once. Attempts, not tasks: a task that fails after two retries counts three times. A lower bound where two owners on one node run tasks of one name.
-- note: Ray's metrics name no job for failed tasks. The first scrape within the time range is the base line, so failures between it and the scrape before are not seen.
-- parameter: task = %: only tasks whose name is like this SQL pattern
-- column: minute: UTC minute of event time
-- column: cluster_id: label or X-P-Cluster-Id header, else what another metric of the node or session says
-- column: task: name of the task or actor method
-- column: failed_attempts: attempts that failed in this minute
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
)
SELECT date_trunc('minute', at) AS minute,
       coalesce(i.cluster_id, s.cluster_id) AS cluster_id,
       task,
       sum(new_attempts)::BIGINT AS failed_attempts
FROM attempts
LEFT JOIN instance_cluster AS i USING (instance)
LEFT JOIN session_cluster AS s USING (session)
WHERE task LIKE $task
GROUP BY ALL
HAVING sum(new_attempts) > 0
ORDER BY minute, cluster_id, task

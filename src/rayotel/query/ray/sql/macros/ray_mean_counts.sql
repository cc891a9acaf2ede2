-- about: how many there were on average over each minute, of what a gauge of Ray's counts, by target and labels
-- note: A scrape that does not have a series counts 0, so what was there for half of a minute counts half. Ray counts a task where it was submitted and corrects where it runs, with negative numbers: add up over a whole cluster.
-- parameter: metric: name of the metric, quoted
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: instance: scrape target
-- column: metric_label_Name: label of the metric; null where it has none
-- column: metric_State: the same
-- column: metric_Reason: the same
-- column: mean_count: how many, on average
-- example: SELECT metric_State, max(mean_count) AS most FROM ray_mean_counts('ray_tasks') GROUP BY ALL ORDER BY most DESC
-- needs: ray_cluster, ray_samples, ray_scrapes, ray_targets
CREATE MACRO ray_mean_counts(metric) AS TABLE
SELECT minute, ray_cluster(cluster_key, cluster_id) AS cluster_id,
       nullif(session_key, '') AS session, nullif(instance_key, '') AS instance,
       metric_label_Name, metric_State, metric_Reason, total / times AS mean_count
FROM (
  SELECT minute, instance_key, session_key, cluster_key, metric_label_Name, metric_State,
         metric_Reason, sum(one) AS total
  FROM (  -- a scrape may be stored twice
    SELECT any_value(minute) AS minute, any_value(instance_key) AS instance_key,
           any_value(session_key) AS session_key, any_value(cluster_key) AS cluster_key,
           any_value(metric_label_Name) AS metric_label_Name, metric_State,
           any_value(metric_Reason) AS metric_Reason, any_value(data_point_value) AS one
    FROM ray_samples
    WHERE metric_name = metric AND data_point_value <> 0  -- most are, and add nothing
    GROUP BY series_id, metric_State, time_unix_nano
  )
  GROUP BY ALL
)
JOIN (  -- how often the target was scraped
  SELECT minute, instance_key, session_key, count(DISTINCT time) AS times
  FROM ray_scrapes WHERE endpoint = 'node'
  GROUP BY ALL
) USING (minute, instance_key, session_key)
LEFT JOIN ray_targets AS t USING (session_key, instance_key);

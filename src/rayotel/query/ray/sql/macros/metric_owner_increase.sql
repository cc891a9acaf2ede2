-- about: rises of running totals that end with their process, sample by sample
-- note: ray_tasks in the states FINISHED and FAILED is a sum over the owners of one node: the processes that submit tasks. A drop is an owner leaving, not a restart, and counts nothing. A series that was gone for half a minute while its target was scraped belongs to a new owner: all of its value is new. Where one owner leaves within the scrape in which another's total rises, the rise is hidden: a lower bound.
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of the metric, quoted
-- column: time: when the sample was taken, UTC
-- column: value: its value
-- column: increase: by how much it rose since the sample before
-- column: ...: every other column of the stream, labels among them
-- example: SELECT date_trunc('minute', time) AS minute, metric_label_Name AS task, sum(increase) AS finished FROM metric_owner_increase('raymetrics', 'ray_tasks') WHERE metric_State = 'FINISHED' GROUP BY ALL ORDER BY minute, finished DESC
-- needs: metric_is_history, metric_scrapes, past, ray_owner_gone_seconds
CREATE MACRO metric_owner_increase(stream, metric) AS TABLE
SELECT time_unix_nano AS time, data_point_value AS value,
       CASE
         WHEN metric_is_history(value_before, time_unix_nano, watched_since) THEN 0
         WHEN value_before IS NULL THEN data_point_value
         -- gone for a while although its target was scraped: without `instance`, targets cannot be
         -- told apart, and this would count totals again
         WHEN time_unix_nano - time_before > to_seconds(ray_owner_gone_seconds())
              AND scrape_before > time_before AND metric_instance <> '' THEN data_point_value
         ELSE greatest(data_point_value - value_before, 0)
       END AS increase,
       * EXCLUDE (time_unix_nano, data_point_value, value_before, time_before, watched_since,
                  scrape_before, target, scraped_at)
FROM (
  SELECT *,
         lag(data_point_value) OVER one_series AS value_before,
         lag(time_unix_nano) OVER one_series AS time_before
  FROM query_table(stream || ' past')
  WHERE metric_name = metric AND data_point_value IS NOT NULL
  -- a series has one state; named here, so that a question for one state reads that alone
  WINDOW one_series AS (PARTITION BY series_id, metric_State ORDER BY time_unix_nano)
)
LEFT JOIN (  -- when each target was scraped, and when before
  SELECT *, lag(scraped_at) OVER one_target AS scrape_before,
         min(scraped_at) OVER (PARTITION BY target) AS watched_since
  FROM metric_scrapes(stream, metric)
  WINDOW one_target AS (PARTITION BY target ORDER BY scraped_at)
) ON scraped_at = time_unix_nano AND target IS NOT DISTINCT FROM metric_instance
WHERE time_unix_nano >= range_begins();

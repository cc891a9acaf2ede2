-- about: by how much a counter rose, sample by sample: sum the increases over any time and labels
-- note: A value below the one before is a restart: the counter began again at 0, so all of the new value is increase. A series that begins although its target was scraped before began at 0 too; one that is there in the first scrape of its target counts from then on. After a gap the increase is that over the whole gap. Over a range, the scrapes of the two minutes before it are read as well, so that nothing is lost at its beginning.
-- note: For counters, and for gauges that only rise (kind cumulative_gauge in ray_metrics). Not for ray_tasks: see metric_owner_increase.
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of the metric, quoted
-- column: time: when the sample was taken, UTC
-- column: value: its value
-- column: increase: by how much it rose since the sample before
-- column: seconds: time since the sample before; null for the first of a series
-- column: rate: increase per second; null for the first of a series
-- column: ...: every other column of the stream, labels among them
-- example: SELECT date_trunc('minute', time) AS minute, metric_Method, sum(increase) AS requests FROM metric_increase('raymetrics', 'ray_grpc_server_req_finished_total') GROUP BY ALL ORDER BY requests DESC LIMIT 5
-- needs: metric_is_history, metric_watched, past
CREATE MACRO metric_increase(stream, metric) AS TABLE
SELECT time_unix_nano AS time, data_point_value AS value,
       CASE
         WHEN metric_is_history(value_before, time_unix_nano, watched_since) THEN 0
         WHEN value_before IS NULL OR data_point_value < value_before THEN data_point_value
         ELSE data_point_value - value_before
       END AS increase,
       epoch(time_unix_nano - time_before) AS seconds,
       increase / nullif(seconds, 0) AS rate,
       * EXCLUDE (time_unix_nano, data_point_value, value_before, time_before, watched_since,
                  target)
FROM (
  SELECT *,
         lag(data_point_value) OVER one_series AS value_before,
         lag(time_unix_nano) OVER one_series AS time_before
  FROM query_table(stream || ' past')
  WHERE metric_name = metric AND data_point_value IS NOT NULL
  WINDOW one_series AS (PARTITION BY series_id ORDER BY time_unix_nano)
)
LEFT JOIN metric_watched(stream, metric) ON target IS NOT DISTINCT FROM metric_instance
WHERE time_unix_nano >= range_begins();

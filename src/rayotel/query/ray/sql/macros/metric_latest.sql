-- about: the latest sample of every series of one metric
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of the metric, quoted
-- column: time: when it was taken, UTC
-- column: value: its value
-- column: ...: every other column of the stream, labels among them
-- example: SELECT metric_instance, value, time FROM metric_latest('raymetrics', 'ray_node_cpu_utilization') ORDER BY value DESC
CREATE MACRO metric_latest(stream, metric) AS TABLE
SELECT max(time_unix_nano) AS time,
       arg_max(data_point_value, time_unix_nano) AS value,
       series_id,
       any_value(COLUMNS(lambda name: name NOT IN (
         'time_unix_nano', 'series_id', 'data_point_value', 'data_point_value_int')))
FROM query_table(stream)
WHERE metric_name = metric
GROUP BY series_id;

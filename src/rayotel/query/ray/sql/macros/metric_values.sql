-- about: values of one metric per series and bucket of time: mean, smallest, largest, first and last
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of the metric, quoted
-- parameter: width: width of a bucket, such as INTERVAL 5 MINUTES
-- column: time: start of the bucket, UTC
-- column: series_id: one series: the metric with all of its labels
-- column: mean: of the samples in the bucket
-- column: smallest: of the samples in the bucket
-- column: largest: of the samples in the bucket
-- column: first: the earliest sample's
-- column: last: the latest sample's
-- column: samples: how many there were
-- column: ...: every other column of the stream, labels among them
-- example: SELECT time, metric_instance, mean FROM metric_values('raymetrics', 'ray_node_mem_used', INTERVAL 5 MINUTES) ORDER BY time
CREATE MACRO metric_values(stream, metric, width) AS TABLE
SELECT time_bucket(width, time_unix_nano) AS time,
       series_id,
       avg(data_point_value) AS mean,
       min(data_point_value) AS smallest,
       max(data_point_value) AS largest,
       arg_min(data_point_value, time_unix_nano) AS first,
       arg_max(data_point_value, time_unix_nano) AS last,
       count(data_point_value) AS samples,
       any_value(COLUMNS(lambda name: name NOT IN (
         'time_unix_nano', 'series_id', 'data_point_value', 'data_point_value_int')))
FROM query_table(stream)
WHERE metric_name = metric
GROUP BY 1, 2;

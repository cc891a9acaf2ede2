-- about: histogram_increase with a row per bucket, to add up over series before a quantile is taken
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of the metric, quoted
-- column: time: when the sample was taken, UTC
-- column: upper_bound: of the bucket; Infinity for the last
-- column: observations: in this bucket since the sample before
-- column: ...: every other column of the stream, labels among them
-- example: SELECT metric_Method, bucket_quantile(0.95, upper_bound, total) AS p95_ms FROM (SELECT metric_Method, upper_bound, sum(observations) AS total FROM histogram_buckets('raymetrics', 'ray_grpc_server_req_process_time_ms') GROUP BY ALL) GROUP BY ALL ORDER BY p95_ms DESC NULLS LAST LIMIT 5
-- needs: histogram_increase
CREATE MACRO histogram_buckets(stream, metric) AS TABLE
SELECT * EXCLUDE (bounds, counts, observations),
       unnest(list_append(bounds, 'Infinity'::DOUBLE)) AS upper_bound,
       unnest(counts) AS observations
FROM histogram_increase(stream, metric);

-- about: what a histogram observed between one sample and the next, by bucket
-- note: A count below the one before is a restart, as in metric_increase. Add up over time and labels with histogram_buckets.
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of the metric, quoted
-- column: time: when the sample was taken, UTC
-- column: bounds: upper bounds of all buckets but the last
-- column: counts: observations since the sample before, per bucket
-- column: observations: their sum
-- column: ...: every other column of the stream, labels among them
-- example: SELECT time, metric_instance, observations, histogram_quantile(0.5, bounds, counts) AS median_ms FROM histogram_increase('raymetrics', 'ray_health_check_rpc_latency_ms') WHERE observations > 0
-- needs: metric_is_history, metric_watched, past
CREATE MACRO histogram_increase(stream, metric) AS TABLE
SELECT time_unix_nano AS time,
       data_point_explicit_bounds AS bounds,
       CASE
         WHEN metric_is_history(counts_before, time_unix_nano, watched_since)
         THEN list_transform(data_point_bucket_counts, lambda _: 0::BIGINT)
         WHEN counts_before IS NULL OR bounds_before <> data_point_explicit_bounds
              OR count_before > data_point_count THEN data_point_bucket_counts
         ELSE list_transform(list_zip(data_point_bucket_counts, counts_before),
                             lambda pair: greatest(pair[1] - pair[2], 0))
       END AS counts,
       list_sum(counts)::BIGINT AS observations,
       * EXCLUDE (time_unix_nano, data_point_explicit_bounds, data_point_bucket_counts,
                  counts_before, bounds_before, count_before, watched_since,
                  target)
FROM (
  SELECT *,
         lag(data_point_bucket_counts) OVER one_series AS counts_before,
         lag(data_point_explicit_bounds) OVER one_series AS bounds_before,
         lag(data_point_count) OVER one_series AS count_before
  FROM query_table(stream || ' past')
  WHERE metric_name = metric AND data_point_bucket_counts IS NOT NULL
  WINDOW one_series AS (PARTITION BY series_id ORDER BY time_unix_nano)
)
LEFT JOIN metric_watched(stream, metric) ON target IS NOT DISTINCT FROM metric_instance
WHERE time_unix_nano >= range_begins();

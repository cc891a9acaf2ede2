-- about: a quantile of a histogram, interpolated within its bucket as Prometheus does
-- note: Within the last bucket, which has no upper bound, the answer is the bound below it. Null where there are no observations.
-- parameter: q: 0 to 1
-- parameter: bounds: upper bounds of all buckets but the last, in order
-- parameter: counts: observations per bucket, not cumulative: one more than bounds
-- example: SELECT time_unix_nano, metric_instance, histogram_quantile(0.99, data_point_explicit_bounds, data_point_bucket_counts) AS p99_ms FROM raymetrics WHERE metric_name = 'ray_health_check_rpc_latency_ms'
CREATE MACRO histogram_quantile(q, bounds, counts) AS
  CASE
    WHEN coalesce(list_sum(counts), 0) <= 0 OR len(bounds) = 0 THEN NULL
    ELSE list_reduce(
      list_transform(counts, lambda count, place: {
        'seen': count::DOUBLE,
        'answer': NULL::DOUBLE,
        'low': CASE WHEN place = 1 THEN least(0, bounds[1]) ELSE bounds[place - 1] END::DOUBLE,
        'high': bounds[least(place, len(bounds))]::DOUBLE
      }),
      lambda done, bucket: {
        'seen': done.seen + bucket.seen,
        'answer': CASE
          WHEN done.answer IS NOT NULL THEN done.answer
          WHEN bucket.seen > 0 AND done.seen + bucket.seen >= q * list_sum(counts)
          THEN CASE
            WHEN bucket.low >= bucket.high THEN bucket.high
            ELSE bucket.low + (bucket.high - bucket.low)
                 * greatest(q * list_sum(counts) - done.seen, 0) / bucket.seen
          END
        END,
        'low': bucket.low,
        'high': bucket.high
      },
      {'seen': 0::DOUBLE, 'answer': NULL::DOUBLE, 'low': 0::DOUBLE, 'high': 0::DOUBLE}
    ).answer
  END;

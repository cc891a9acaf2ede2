-- question: Did the GCS and the dashboard answer in time, minute by minute?
-- note: Quantiles are from histograms: exact to the width of a bucket. Trust health checks beyond 5 s, event loops of the GCS that lag more than 100 ms for minutes, a dashboard that lags more than 1 s. The first minute of a method has no value. Long polls (GcsSubscriberPoll), which wait by design, are left out of the methods.
-- parameter: min_calls = 5: a method called less often in a minute is not called slow
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: health_checks: health checks of the minute that were answered
-- column: health_check_p50_ms: half of them were faster
-- column: health_check_p99_ms: 99 of 100 were faster
-- column: loop_lag_ms: longest wait in an event loop of the GCS or a raylet
-- column: dashboard_lag_ms: longest wait in the dashboard's event loop
-- column: slowest_method: gRPC method of the GCS with the highest p99; null where ray_grpc_* is not kept
-- column: slowest_method_p99_ms: 99 of 100 of its calls were faster
WITH checks AS (
  SELECT moment, session, sum(total)::BIGINT AS health_checks,
         bucket_quantile(0.5, upper_bound, total) AS health_check_p50_ms,
         bucket_quantile(0.99, upper_bound, total) AS health_check_p99_ms
  FROM (
    SELECT date_trunc('minute', time) AS moment, coalesce(metric_SessionName, '') AS session,
           upper_bound, sum(observations) AS total
    FROM histogram_buckets('raymetrics', 'ray_health_check_rpc_latency_ms')
    GROUP BY ALL
  )
  GROUP BY ALL
),
answered AS (  -- of the GCS alone, so that the raylets' histograms are not read
  SELECT minute AS moment, session_key AS session, metric_Method AS method, series_id,
         any_value(data_point_explicit_bounds) AS bounds,
         arg_max(data_point_bucket_counts, time_unix_nano) AS counts
  FROM ray_samples
  WHERE metric_name = 'ray_grpc_server_req_process_time_ms' AND metric_Component = 'gcs_server'
    AND metric_Method NOT LIKE '%SubscriberPoll'
    AND data_point_bucket_counts IS NOT NULL
  GROUP BY ALL
),
methods AS (
  SELECT moment, session, arg_max(method, p99_ms) AS slowest_method,
         max(p99_ms) AS slowest_method_p99_ms
  FROM (
    SELECT moment, session, method, histogram_quantile(0.99, bounds, answers) AS p99_ms
    FROM (
      SELECT *, list_transform(
               list_zip(counts, lag(counts) OVER (PARTITION BY series_id ORDER BY moment)),
               lambda pair: greatest(pair[1] - pair[2], 0)) AS answers
      FROM answered
    )
    WHERE list_sum(answers) >= $min_calls::BIGINT
  )
  GROUP BY ALL
),
lags AS (
  SELECT minute AS moment, session_key AS session,
         max(data_point_value)
           FILTER (metric_name = 'ray_io_context_event_loop_lag_ms') AS loop_lag_ms,
         1000 * max(data_point_value)
           FILTER (metric_name = 'ray_dashboard_event_loop_lag_seconds') AS dashboard_lag_ms
  FROM ray_samples
  WHERE metric_name IN ('ray_io_context_event_loop_lag_ms',
                        'ray_dashboard_event_loop_lag_seconds')
  GROUP BY minute, session_key
),
found AS (
  SELECT * FROM lags
  FULL JOIN checks USING (moment, session)
  FULL JOIN methods USING (moment, session)
)
SELECT moment AS minute, c.cluster_id, health_checks, health_check_p50_ms, health_check_p99_ms,
       loop_lag_ms, dashboard_lag_ms, slowest_method, slowest_method_p99_ms
FROM found AS f
LEFT JOIN ray_session_clusters AS c ON c.session = f.session
ORDER BY minute, cluster_id, f.session

-- question: Which metrics cost the most?
-- note: A metric costs its data points: the product of its series and its scrapes. `cardinality-labels` finds the label that multiplies the series. The settings drop_metrics and drop_labels leave out data that nobody asks for.
-- parameter: limit = 50: how many metrics
-- column: metric_name: name of the metric
-- column: metric_type: gauge, sum, histogram and so on
-- column: series: combinations of its labels that were there at some time
-- column: points: data points in the time range
-- column: points_pct: share of all data points, 0 to 100
-- column: kind: what its values really are: see ray_metrics; null for a metric that is not Ray's
-- column: advice: what to do about it; null where nothing is known
WITH known AS (
  SELECT metric_name, if(count(DISTINCT kind) > 1, 'mixed', max(kind)) AS kind
  FROM ray_metrics GROUP BY ALL
)
SELECT metric_name, metric_type, series, points,
       100 * points / sum(points) OVER () AS points_pct, kind,
       CASE
         WHEN kind = 'broken' THEN 'of no use: drop_metrics'
         WHEN regexp_matches(metric_name, '^(ray_grpc_|ray_operation_|python_|process_)|_created$')
         THEN 'seldom asked for: drop_metrics'
       END AS advice
FROM metric_overview('raymetrics') LEFT JOIN known USING (metric_name)
ORDER BY points DESC, metric_name
LIMIT $limit::BIGINT

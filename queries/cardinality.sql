-- question: Which metrics cost the most?
-- note: What a metric costs is its data points; how many there are is its series times its scrapes. `cardinality-labels` tells which label makes the series many. The settings drop_metrics and drop_labels leave out what is never asked for.
-- parameter: limit = 50: how many metrics
-- column: metric: name of the metric
-- column: type: gauge, sum, histogram and so on
-- column: series: combinations of its labels that were there at some time
-- column: points: data points in the time range
-- column: points_pct: share of all data points, 0 to 100
-- column: kind: what its values really are: see ray_metrics; null for a metric that is not Ray's
-- column: advice: what to do about it; null where nothing is known
WITH series AS (
  SELECT metric_name, metric_type, series_id, count(*) AS points
  FROM ray_samples GROUP BY ALL
),
known AS (
  SELECT metric_name AS metric,
         if(count(DISTINCT kind) > 1, 'mixed', max(kind)) AS kind
  FROM ray_metrics GROUP BY ALL
),
counted AS (
  SELECT metric_name AS metric,
         max(metric_type) AS type,
         count(DISTINCT series_id) AS series,
         sum(points)::BIGINT AS points,
         100 * sum(points) / sum(sum(points)) OVER () AS points_pct
  FROM series
  GROUP BY metric_name
)
SELECT c.*, k.kind,
       CASE
         WHEN k.kind = 'broken' THEN 'of no use: drop_metrics'
         WHEN regexp_matches(metric, '^(ray_grpc_|ray_operation_|python_|process_)|_created$')
         THEN 'seldom asked for: drop_metrics'
       END AS advice
FROM counted AS c LEFT JOIN known AS k USING (metric)
ORDER BY points DESC, metric
LIMIT $limit::BIGINT

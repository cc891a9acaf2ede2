-- question: Which metrics cost the most?
-- note: What a metric costs is its data points; how many there are is its series times its scrapes. `cardinality-labels` tells which label makes the series many. What is never asked for can be dropped where Fluent Bit scrapes.
-- parameter: limit = 50: how many metrics
-- column: metric: name of the metric
-- column: type: gauge, sum, histogram and so on
-- column: series: combinations of its labels that were there at some time
-- column: points: data points in the time range
-- column: points_pct: share of all data points, 0 to 100
-- column: kind: what its values mean; null so far
-- column: advice: what to do about it; null so far
WITH series AS (
  SELECT metric_name, metric_type, series_id, count(*) AS points
  FROM ray_samples GROUP BY ALL
)
SELECT metric_name AS metric,
       max(metric_type) AS type,
       count(DISTINCT series_id) AS series,
       sum(points)::BIGINT AS points,
       100 * sum(points) / sum(sum(points)) OVER () AS points_pct,
       NULL::VARCHAR AS kind,
       NULL::VARCHAR AS advice
FROM series
GROUP BY metric_name
ORDER BY points DESC, metric
LIMIT $limit::BIGINT

-- about: every metric of a stream: what it was sent as, how many series and points it has, since when
-- parameter: stream: name of a metrics stream, quoted
-- column: metric_name: name of the metric
-- column: metric_type: gauge, sum, histogram and so on; several where it was sent as several
-- column: metric_unit: as it was sent
-- column: series: combinations of its labels that were there at some time
-- column: points: data points
-- column: first_seen: time of the first
-- column: last_seen: time of the last
-- example: SELECT metric_name, series, points FROM metric_overview('raymetrics') ORDER BY points DESC LIMIT 5
CREATE MACRO metric_overview(stream) AS TABLE
SELECT metric_name, string_agg(DISTINCT type, ', ' ORDER BY type) AS metric_type,
       max(unit) AS metric_unit, count(*) AS series, sum(points)::BIGINT AS points,
       min(first) AS first_seen, max(last) AS last_seen
FROM (
  SELECT metric_name, series_id, any_value(metric_type) AS type, any_value(metric_unit) AS unit,
         count(*) AS points, min(time_unix_nano) AS first, max(time_unix_nano) AS last
  FROM query_table(stream)
  GROUP BY metric_name, series_id
)
GROUP BY metric_name;

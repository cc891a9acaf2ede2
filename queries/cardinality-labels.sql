-- question: Which label multiplies a metric's series?
-- note: Looks only at what was scraped in the last minutes of the time range, because it reads every label. Series that ended before are not seen: for labels whose values come and go, such as WorkerId, ask over several ranges. A label with nearly as many values as the metric has series is the one that makes them.
-- parameter: minutes = 10: how far back from the end of the range
-- parameter: limit = 50: how many labels
-- column: metric_name: name of the metric
-- column: label: column of the label
-- column: distinct_values: values that it has in these minutes
-- column: series: series of the metric in these minutes
-- column: example: one of the values
WITH ends AS (SELECT max(time_unix_nano) AS ends FROM raymetrics),
moments AS (  -- joined by equality: so the scan of the labels knows which hours to skip
  SELECT DISTINCT time_unix_nano FROM raymetrics
  WHERE time_unix_nano > (SELECT ends FROM ends) - to_minutes($minutes::BIGINT)
),
series AS (
  SELECT metric_name AS metric_of, series_id,
         any_value(COLUMNS(lambda name: metric_is_label(name)))
  FROM raymetrics JOIN moments USING (time_unix_nano)
  GROUP BY metric_name, series_id
),
labels AS (
  UNPIVOT series ON COLUMNS(* EXCLUDE (metric_of, series_id)) INTO NAME label VALUE content
),
counts AS (SELECT metric_of, count(*) AS series FROM series GROUP BY metric_of)
SELECT metric_of AS metric_name, label,
       count(DISTINCT content) AS distinct_values,
       any_value(series) AS series,
       min(content) AS example
FROM labels JOIN counts USING (metric_of)
WHERE content <> ''
GROUP BY metric_of, label
HAVING count(DISTINCT content) > 1
ORDER BY distinct_values DESC, series DESC, metric_name, label
LIMIT $limit::BIGINT

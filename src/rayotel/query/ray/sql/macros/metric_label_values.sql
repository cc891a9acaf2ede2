-- about: every value of each label of a metric; an empty label is an absent one
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of the metric, quoted
-- column: label: column of the label, header or resource attribute
-- column: content: one of its values
-- column: series: series that have it
-- column: points: data points that have it
-- example: SELECT content, series FROM metric_label_values('raymetrics', 'ray_tasks') WHERE label = 'metric_State' ORDER BY series DESC
-- needs: metric_is_label, metric_sent_labels
CREATE MACRO metric_label_values(stream, metric) AS TABLE
SELECT label, content, count(*) AS series, sum("its points")::BIGINT AS points
FROM (
  UNPIVOT (  -- labels are the same in all points of a series
    SELECT count(*) AS "its points",  -- which no header can be called
           any_value(nullif(COLUMNS(lambda name: metric_is_label(name)), ''))
    FROM metric_sent_labels(stream) WHERE metric_name = metric GROUP BY series_id
  )
  ON COLUMNS(* EXCLUDE ("its points")) INTO NAME label VALUE content
)
GROUP BY label, content;

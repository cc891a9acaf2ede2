-- about: which labels each metric of a stream has; an empty label is an absent one
-- note: Labels seldom change, and to read all of them costs ten times what counting does: so only a stretch is read.
-- parameter: stream: name of a metrics stream, quoted
-- parameter: since: begin of the stretch, as a time
-- parameter: early: list of metrics that are read as a whole, because they ended before it
-- column: metric_name: name of the metric
-- column: label: column of the label, header or resource attribute
-- example: SELECT metric_name, string_agg(label, ', ') AS labels FROM metric_labels('raymetrics', range_begins(), []) WHERE metric_name = 'ray_tasks' GROUP BY ALL
-- needs: metric_is_label, metric_sent_labels
CREATE MACRO metric_labels(stream, since, early) AS TABLE
SELECT DISTINCT metric_name, label
FROM (
  UNPIVOT (
    SELECT metric_name, nullif(count(nullif(COLUMNS(lambda name: metric_is_label(name)), '')), 0)
    FROM metric_sent_labels(stream) WHERE time_unix_nano >= since GROUP BY metric_name
    UNION ALL
    SELECT metric_name, nullif(count(nullif(COLUMNS(lambda name: metric_is_label(name)), '')), 0)
    FROM metric_sent_labels(stream) WHERE list_contains(early::VARCHAR[], metric_name)
    GROUP BY metric_name
  )
  ON COLUMNS(* EXCLUDE (metric_name)) INTO NAME label VALUE points
);

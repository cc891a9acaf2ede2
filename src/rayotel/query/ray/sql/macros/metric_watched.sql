-- about: since when each target is scraped: from then on, a series that was not there began at 0
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of a metric of the targets that matter, quoted
-- column: target: scrape target, instance; null where the scrape did not say
-- column: watched_since: its first scrape, in the time range or shortly before it
-- example: SELECT * FROM metric_watched('raymetrics', 'ray_tasks')
CREATE MACRO metric_watched(stream, metric) AS TABLE
SELECT metric_instance AS target, min(time_unix_nano) AS watched_since
FROM query_table(stream || ' past')
WHERE metric_name IN (metric, 'target_info', 'ray_node_cpu_count', 'autoscaler_active_nodes',
                      'ray_dashboard_event_loop_lag_seconds')
GROUP BY metric_instance;

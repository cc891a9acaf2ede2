-- about: when each target was scraped, in the time range or shortly before it
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of a metric of the targets that matter, quoted
-- column: target: scrape target, instance; null if the scrape has none
-- column: scraped_at: time of a scrape
-- example: SELECT target, count(*) AS scrapes FROM metric_scrapes('raymetrics', 'ray_tasks') GROUP BY ALL
-- needs: past, ray_scrape_markers
CREATE MACRO metric_scrapes(stream, metric) AS TABLE
SELECT DISTINCT metric_instance AS target, time_unix_nano AS scraped_at
FROM query_table(stream || ' past')
WHERE metric_name IN list_append(map_keys(ray_scrape_markers()), metric);

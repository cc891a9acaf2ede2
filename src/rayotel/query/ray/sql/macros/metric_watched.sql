-- about: since when each target is scraped: from then on, a series that was not there began at 0
-- parameter: stream: name of a metrics stream, quoted
-- parameter: metric: name of a metric of the targets that matter, quoted
-- column: target: scrape target, instance; null if the scrape has none
-- column: watched_since: its first scrape, in the time range or shortly before it
-- example: SELECT * FROM metric_watched('raymetrics', 'ray_tasks')
-- needs: metric_scrapes
CREATE MACRO metric_watched(stream, metric) AS TABLE
SELECT target, min(scraped_at) AS watched_since
FROM metric_scrapes(stream, metric)
GROUP BY target;

-- about: whether a series' value is from before its target was scraped, so that nothing of it is increase
-- parameter: value_before: value of the sample before; null for the first
-- parameter: moment: time of the sample
-- parameter: watched_since: first scrape of its target, as in metric_watched
-- example: SELECT metric_is_history(NULL, TIMESTAMPTZ '2026-11-20 15:00:05', TIMESTAMPTZ '2026-11-20 15:00:00')
-- needs: ray_first_scrapes_seconds
CREATE MACRO metric_is_history(value_before, moment, watched_since) AS
  (value_before IS NULL AND moment - watched_since < to_seconds(ray_first_scrapes_seconds()));

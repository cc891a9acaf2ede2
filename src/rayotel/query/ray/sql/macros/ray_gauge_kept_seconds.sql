-- about: how long Ray exposes a gauge after its last report: between scrapes further apart, some are never seen
-- example: SELECT ray_gauge_kept_seconds()
CREATE MACRO ray_gauge_kept_seconds() AS 20;

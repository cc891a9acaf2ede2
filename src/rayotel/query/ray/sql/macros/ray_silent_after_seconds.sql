-- about: how long a target must not be scraped to be called silent: three scrapes
-- example: SELECT ray_silent_after_seconds()
CREATE MACRO ray_silent_after_seconds() AS 30;

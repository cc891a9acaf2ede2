-- about: how long after its target's first scrape a series may appear and yet be older: one scrape and a half
-- example: SELECT ray_first_scrapes_seconds()
CREATE MACRO ray_first_scrapes_seconds() AS 15;

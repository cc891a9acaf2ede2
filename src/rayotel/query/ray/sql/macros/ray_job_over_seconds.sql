-- about: how long a job must not be reported, while its target is, to be over
-- example: SELECT ray_job_over_seconds()
CREATE MACRO ray_job_over_seconds() AS 45;

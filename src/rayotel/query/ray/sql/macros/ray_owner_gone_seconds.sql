-- about: how long a running total of processes must be gone for its owner to have left: longer than Ray shows it after its last report
-- example: SELECT ray_owner_gone_seconds()
CREATE MACRO ray_owner_gone_seconds() AS 30;

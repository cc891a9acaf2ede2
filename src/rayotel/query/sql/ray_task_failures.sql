-- about: task attempts that failed, minute by minute: by job, task and reason where Ray's events are kept, by task from metrics where not
-- note: Attempts, not tasks: a task that fails after two retries counts three times. For a session whose task events are there, every number is from them, and exact; the metrics of such a session are not read.
-- note: ray_tasks is a gauge of running totals per owner process: summing it over scrapes, as the published query does, counts every failure again with every scrape. Here each rise counts once. What was counted before the first scrape is history; two owners on one node that run tasks of one name make it a lower bound.
-- column: time: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: where it ran, from events its node id; from metrics the scrape target of its owner
-- column: node_from: event, instance or address: what `node` is
-- column: instance: scrape target of the owner; null from events
-- column: job_id: null from metrics, which do not tell
-- column: task: name of the task or actor method
-- column: reason: Ray's error type; null from metrics
-- column: failed_attempts: how many
-- column: source: events or metrics
-- example: SELECT task, reason, sum(failed_attempts) AS failed, any_value(source) AS source FROM ray_task_failures GROUP BY ALL ORDER BY failed DESC
CREATE VIEW ray_task_failures AS
WITH told AS (  -- sessions whose tasks are known from events
  SELECT DISTINCT session_name AS session FROM rayevents
  WHERE event_type = 'TASK_LIFECYCLE_EVENT'
),
watched AS (  -- when each target was scraped, and when before
  SELECT instance_key, time_unix_nano AS moment,
         lag(time_unix_nano) OVER one_target AS scrape_before,
         min(time_unix_nano) OVER one_target AS first_scrape
  FROM (
    SELECT DISTINCT coalesce(metric_instance, '') AS instance_key, time_unix_nano
    FROM "raymetrics past"
    WHERE metric_name IN ('target_info', 'ray_node_cpu_count')
       OR (metric_name = 'ray_tasks' AND metric_State = 'FAILED')
  )
  WINDOW one_target AS (PARTITION BY instance_key ORDER BY time_unix_nano)
),
totals AS (
  SELECT time_unix_nano AS moment, coalesce(metric_instance, '') AS instance_key,
         coalesce(metric_SessionName, '') AS session_key,
         coalesce(nullif(metric_cluster_id, ''), cluster_id, '') AS cluster_key,
         coalesce(metric_NodeAddress, '') AS address_key,
         metric_label_Name AS task, data_point_value AS total,
         lag(data_point_value) OVER one_series AS total_before,
         lag(time_unix_nano) OVER one_series AS at_before
  FROM "raymetrics past"
  WHERE metric_name = 'ray_tasks' AND metric_State = 'FAILED'
    AND data_point_value BETWEEN 0 AND 1e15
    AND metric_label_Name NOT LIKE 'JobSupervisor.%'
    AND metric_label_Name NOT LIKE '\_ray\_internal%' ESCAPE '\'
  WINDOW one_series AS (PARTITION BY series_id ORDER BY time_unix_nano)
),
counted AS (
  SELECT s.*,
         CASE
           -- totals of before the first scrape are history that nobody watched
           WHEN at_before IS NULL AND s.moment - first_scrape < INTERVAL 15 SECONDS THEN 0
           WHEN at_before IS NULL THEN total
           -- gone for a while although its target was scraped: the owner left, this is a new one
           -- (without `instance`, targets cannot be told apart, and this would count totals again)
           WHEN s.moment - at_before > INTERVAL 30 SECONDS AND scrape_before > at_before
                AND instance_key <> '' THEN total
           -- a drop is an owner leaving, not a reset
           ELSE greatest(total - total_before, 0)
         END AS new_attempts
  FROM totals AS s JOIN watched AS w USING (instance_key, moment)
  WHERE s.moment >= range_begins()
    AND session_key NOT IN (SELECT session FROM told WHERE session IS NOT NULL)
)
SELECT date_trunc('minute', moment) AS time,
       coalesce(nullif(cluster_key, ''), cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       coalesce(nullif(instance_key, ''), nullif(address_key, '')) AS node,
       CASE WHEN instance_key <> '' THEN 'instance' WHEN address_key <> '' THEN 'address' END
         AS node_from,
       nullif(instance_key, '') AS instance,
       NULL::VARCHAR AS job_id,
       task,
       NULL::VARCHAR AS reason,
       sum(new_attempts)::BIGINT AS failed_attempts,
       'metrics' AS source
FROM counted
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
GROUP BY ALL
HAVING sum(new_attempts) > 0
UNION ALL BY NAME
SELECT date_trunc('minute', ended) AS time, cluster_id, session, node_id AS node,
       if(node_id IS NULL, NULL, 'event') AS node_from, NULL::VARCHAR AS instance,
       job_id, task, error_type AS reason, count(*) AS failed_attempts, 'events' AS source
FROM ray_task_attempts
WHERE state = 'FAILED' AND NOT is_internal
GROUP BY ALL;

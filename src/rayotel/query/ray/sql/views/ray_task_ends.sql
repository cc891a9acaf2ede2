-- about: task attempts that ended as Ray's metrics count them, minute by minute, of sessions whose task events are not kept
-- note: ray_tasks is a gauge of running totals per owner process: each rise counts once, and what was counted before the first scrape is history. Two owners on one node that run tasks of one name make it a lower bound. Where task events are kept, ray_task_attempts knows each attempt.
-- column: time: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target of the owner where the scrape said it, else the owner's address
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target of the owner
-- column: task: name of the task or actor method
-- column: state: FINISHED or FAILED
-- column: is_retry: whether these were tried before
-- column: attempts: how many
-- example: SELECT task, state, sum(attempts) AS attempts FROM ray_task_ends GROUP BY ALL ORDER BY attempts DESC
CREATE VIEW ray_task_ends AS
WITH told AS (  -- sessions whose tasks are known from events
  SELECT DISTINCT session_name AS session FROM rayevents
  WHERE event_type = 'TASK_LIFECYCLE_EVENT' AND session_name IS NOT NULL
),
watched AS (  -- when each target was scraped, and when before
  SELECT instance_key, time_unix_nano AS moment,
         lag(time_unix_nano) OVER one_target AS scrape_before,
         min(time_unix_nano) OVER one_target AS first_scrape
  FROM (
    SELECT DISTINCT coalesce(metric_instance, '') AS instance_key, time_unix_nano
    FROM "raymetrics past"
    WHERE metric_name IN ('target_info', 'ray_node_cpu_count')
       OR (metric_name = 'ray_tasks' AND metric_State IN ('FINISHED', 'FAILED'))
  )
  WINDOW one_target AS (PARTITION BY instance_key ORDER BY time_unix_nano)
),
totals AS (
  SELECT time_unix_nano AS moment, coalesce(metric_instance, '') AS instance_key,
         coalesce(metric_SessionName, '') AS session_key,
         coalesce(nullif(metric_cluster_id, ''), cluster_id, '') AS cluster_key,
         coalesce(metric_NodeAddress, '') AS address_key,
         metric_label_Name AS task, metric_State AS state,
         lower(metric_IsRetry) IN ('1', 'true') AS is_retry, data_point_value AS total,
         lag(data_point_value) OVER one_series AS total_before,
         lag(time_unix_nano) OVER one_series AS at_before
  FROM "raymetrics past"
  WHERE metric_name = 'ray_tasks' AND metric_State IN ('FINISHED', 'FAILED')
    AND data_point_value BETWEEN 0 AND 1e15
    AND NOT ray_is_internal(metric_label_Name)
  -- the state is of the series; named here, so that a question for one state reads that alone
  WINDOW one_series AS (PARTITION BY series_id, metric_State ORDER BY time_unix_nano)
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
  WHERE s.moment >= range_begins() AND session_key NOT IN (SELECT session FROM told)
)
SELECT date_trunc('minute', moment) AS time,
       coalesce(nullif(cluster_key, ''), cluster_id) AS cluster_id,
       nullif(session_key, '') AS session,
       ray_node(instance_key, address_key) AS node,
       ray_node_from(instance_key, address_key) AS node_from,
       nullif(instance_key, '') AS instance,
       task, state, coalesce(is_retry, false) AS is_retry, sum(new_attempts)::BIGINT AS attempts
FROM counted
LEFT JOIN ray_targets AS t USING (session_key, instance_key)
GROUP BY ALL
HAVING sum(new_attempts) > 0;

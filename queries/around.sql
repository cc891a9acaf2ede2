-- question: What happened around this time?
-- note: A window around `time` is compared with the window of the same width before it. First come events: nodes, targets that fell silent, jobs, actors, workers, failed attempts. Then metrics whose mean changed, in units of how much they varied before, but at least of a twentieth of the mean; 20 is a change from or to nothing. Over a long time range, give `--from` and `--to` around both windows: all metrics are read.
-- note: Counters, and gauges that only rise, count as increase per second. Histograms are left out, and so is what a node reports of the scrape itself. Without events, failed attempts are counted by whole minutes. Cause comes before effect: look at `time` before at `rank`.
-- parameter: time = : moment, such as 2026-11-20T16:20:00; empty for half a window before the end of the time range
-- parameter: window = 10 minutes: width of each of the two windows
-- parameter: cluster = %: only clusters whose cluster_id is like this SQL pattern
-- parameter: limit = 50: how many metrics at most; as many events
-- column: rank: 1 for what to look at first
-- column: time: of an event; the first scrape in which a metric left its range of before
-- column: cluster_id: which cluster; see ray_targets
-- column: what: event, or metric with the labels that matter
-- column: where: scrape target, address or id of the node; null where it is the whole cluster
-- column: before: mean of a metric, number of an event, in the window before
-- column: after: the same in the window around `time`
-- column: how_much: change of a metric in units of its earlier spread; null for events
WITH ends AS (
  SELECT max(ends) + INTERVAL 1 MICROSECOND AS ends FROM (
    SELECT max(last_seen) AS ends FROM ray_targets
    UNION ALL
    SELECT max(time_unix_nano) AS ends FROM rayevents
  )
),
spans AS (
  SELECT coalesce(nullif($time, '')::TIMESTAMPTZ, ends - $window::INTERVAL / 2)
           - $window::INTERVAL / 2 AS begins,
         begins - $window::INTERVAL AS begins_before,
         begins + $window::INTERVAL AS ends
  FROM ends
),
totals AS (  -- what only ever rises, whatever type Ray gives it
  SELECT metric_name AS rising, label, label_value FROM ray_metrics
  WHERE kind IN ('counter', 'cumulative_gauge', 'owner_gauge')
),
moments AS (  -- joined by equality: so the scan of everything else knows what to skip
  SELECT DISTINCT time_unix_nano, time_unix_nano >= begins AS is_after FROM raymetrics, spans
  WHERE time_unix_nano >= begins_before AND time_unix_nano < ends
),
samples AS (
  SELECT time_unix_nano AS moment, metric_name AS metric, data_point_value AS amount, series_id,
         coalesce(nullif(metric_instance, ''), metric_NodeAddress, '') AS node,
         coalesce(metric_SessionName, '') AS session,
         coalesce(metric_instance, '') AS instance_key,
         concat_ws(', ', nullif(metric_label_Name, ''), nullif(metric_State, ''),
                   nullif(metric_Location, ''), nullif(metric_label_Type, ''),
                   nullif(metric_Reason, ''), nullif(metric_NodeType, '')) AS labels,
         is_after,
         coalesce(is_monotonic, false) OR rising IS NOT NULL AS is_total
  FROM raymetrics JOIN moments USING (time_unix_nano)
  LEFT JOIN totals
    ON rising = metric_name
       AND (label IS NULL
            OR label_value = if(label = 'State', metric_State, metric_label_Type))
  WHERE data_point_value IS NOT NULL
    AND (starts_with(metric_name, 'ray_') OR starts_with(metric_name, 'autoscaler_'))
    AND NOT starts_with(metric_name, 'ray_grpc_') AND NOT starts_with(metric_name, 'ray_operation_')
    AND NOT starts_with(metric_name, 'ray_aggregator_agent_')
    AND NOT starts_with(metric_name, 'ray_node_failure')
    AND NOT ends_with(metric_name, '_created') AND NOT ends_with(metric_name, 's_mb')
    AND metric_name NOT IN ('ray_job_duration_s', 'ray_finished_jobs_total',
                            'ray_cluster_failed_nodes')
),
rates AS (
  SELECT * REPLACE (if(is_total, greatest(amount - amount_before, 0) / seconds, amount) AS amount)
  FROM (
    SELECT *, lag(amount) OVER one_series AS amount_before,
           epoch(moment - lag(moment) OVER one_series) AS seconds
    FROM samples
    WINDOW one_series AS (PARTITION BY series_id ORDER BY moment)
  )
  WHERE NOT is_total OR seconds > 0
),
scrapes AS (
  SELECT DISTINCT session, instance_key, node, moment, is_after FROM samples
),
reports AS (  -- to compare, a node must have been there in both windows
  SELECT session, node, count(*) FILTER (NOT is_after) AS scrapes_before,
         count(*) FILTER (is_after) AS scrapes_after
  FROM scrapes GROUP BY session, node
  HAVING scrapes_before >= 3 AND scrapes_after >= 3
),
levels AS (
  SELECT session, node, metric, labels, is_total, moment, is_after, sum(amount) AS amount
  FROM rates GROUP BY ALL
),
earlier AS (
  SELECT session, node, metric, labels, is_total, median(amount) AS usual,
         avg(amount) AS mean, 1.4826 * mad(amount) AS deviation, stddev_pop(amount) AS noise
  FROM levels WHERE NOT is_after GROUP BY ALL
),
compared AS (
  SELECT l.session, l.node, l.metric, l.labels, l.is_total,
         coalesce(any_value(e.mean), 0) AS before,
         coalesce(avg(l.amount) FILTER (l.is_after), 0) AS after,
         greatest(coalesce(any_value(e.deviation), 0),
                  -- a value that only sometimes leaves 0 has no deviation, yet it varies
                  if(coalesce(any_value(e.usual), 0) = 0, coalesce(any_value(e.noise), 0), 0),
                  greatest(abs(before), abs(after)) / 20) AS spread,
         coalesce(any_value(e.usual), 0) AS usual,
         list({'moment': l.moment, 'amount': l.amount} ORDER BY l.moment)
           FILTER (l.is_after) AS course
  FROM levels AS l
  LEFT JOIN earlier AS e USING (session, node, metric, labels, is_total)
  GROUP BY ALL
),
changed AS (
  SELECT c.*, abs(c.after - c.before) / nullif(c.spread, 0) AS how_much,
         list_filter(c.course, lambda one: abs(one.amount - c.usual) > 3 * c.spread) AS outside
  FROM compared AS c JOIN reports AS r USING (session, node)
  -- one scrape that differs is no change
  WHERE how_much >= 1 AND (len(outside) >= 3 OR course IS NULL)
),
gaps AS (
  SELECT *, lag(moment) OVER one_target AS moment_before,
         lead(moment) OVER one_target AS moment_after,
         max(moment) OVER (PARTITION BY session) AS session_seen,
         min(moment) OVER (PARTITION BY session) AS session_began
  FROM scrapes
  WINDOW one_target AS (PARTITION BY session, node ORDER BY moment)
),
silences AS (
  SELECT 1 AS class, moment AS time, session, 'target fell silent' AS what, node AS place,
         NULL::DOUBLE AS before, NULL::DOUBLE AS after
  FROM gaps
  WHERE is_after AND coalesce(moment_after, session_seen) - moment
                     > to_seconds(ray_silent_after_seconds())
  UNION ALL
  SELECT 1, moment, session, 'target reports', node, NULL, NULL
  FROM gaps
  WHERE is_after AND moment - coalesce(moment_before, session_began)
                     > to_seconds(ray_silent_after_seconds())
),
nodes AS (
  SELECT 0 AS class, time, n.session,
         concat('node ', if(n.state = 'DEAD', 'died', 'joined'), ': ' || n.reason) AS what,
         concat_ws(' ', n.address, left(n.node_id, 8)) AS place, NULL::DOUBLE AS before,
         NULL::DOUBLE AS after
  FROM ray_node_events AS n, spans AS s
  WHERE n.time >= s.begins AND n.time < s.ends AND n.sub_state IS NULL
),
jobs AS (
  SELECT 2 AS class, moment AS time, session, concat('job ', step, ': ', job) AS what,
         NULL::VARCHAR AS place, NULL::DOUBLE AS before, NULL::DOUBLE AS after
  FROM (
    SELECT session, concat_ws(' ', coalesce(submission_id, job_id),
                              if(submission_id IS NULL, NULL, job_id)) AS job,
           unnest([{'step': 'began', 'moment': began},
                   {'step': if(status = 'ENDED', 'ended', lower(status)), 'moment': ended}],
                  recursive := true)
    FROM ray_jobs WHERE NOT coalesce(is_internal, false)
  ), spans AS s
  WHERE moment >= s.begins AND moment < s.ends
),
counted AS (
  SELECT 3 AS class, session, time,
         concat('actor ', if(state = 'DEAD', 'died', 'restarts'), ': ',
                concat_ws(', ', actor, reason)) AS what,
         NULL::VARCHAR AS place, 1 AS times
  FROM ray_actor_events
  WHERE NOT is_internal
    AND (state = 'RESTARTING' OR state = 'DEAD'
         AND coalesce(reason, '') NOT IN ('OUT_OF_SCOPE', 'REF_DELETED', 'RAY_KILL'))
  UNION ALL BY NAME
  SELECT 4 AS class, session, time, concat('worker died: ', reason) AS what,
         left(node_id, 8) AS place, 1 AS times
  FROM ray_worker_events WHERE is_unexpected
  UNION ALL BY NAME
  SELECT 5 AS class, session, time,
         concat('failed attempts: ', concat_ws(', ', task, reason)) AS what,
         NULL::VARCHAR AS place, times
  FROM (
    SELECT session, ended AS time, task, error_type AS reason, 1 AS times
    FROM ray_task_attempts WHERE state = 'FAILED' AND NOT is_internal
    UNION ALL BY NAME  -- by minutes: each in its middle
    SELECT session, minute + INTERVAL 30 SECONDS AS time, task, error_type AS reason,
           failed_attempts AS times
    FROM ray_task_failures WHERE source = 'metrics'
  )
),
counts AS (
  SELECT class, min(c.time) FILTER (c.time >= s.begins) AS time, session, what, place,
         coalesce(sum(times) FILTER (c.time < s.begins), 0)::DOUBLE AS before,
         coalesce(sum(times) FILTER (c.time >= s.begins), 0)::DOUBLE AS after
  FROM counted AS c, spans AS s
  WHERE c.time >= s.begins_before AND c.time < s.ends
  GROUP BY class, session, what, place
  HAVING after > 0
),
events AS (
  SELECT e.*, c.cluster_id, NULL::DOUBLE AS how_much
  FROM (
    SELECT * FROM nodes UNION ALL BY NAME SELECT * FROM silences
    UNION ALL BY NAME SELECT * FROM jobs UNION ALL BY NAME SELECT * FROM counts
  ) AS e
  LEFT JOIN ray_session_clusters AS c ON c.session = e.session
  WHERE coalesce(c.cluster_id, '') LIKE $cluster
  ORDER BY class, if(class < 3, epoch(time), before - after), time, what
  LIMIT $limit::BIGINT
),
metrics AS (
  SELECT 6 AS class, coalesce(outside[1].moment, course[1].moment) AS time, c.cluster_id,
         concat(metric, ' (' || nullif(labels, '') || ')', if(is_total, ' per second', '')) AS what,
         node AS place, before, after, how_much
  FROM changed AS m
  LEFT JOIN ray_session_clusters AS c ON c.session = m.session
  WHERE coalesce(c.cluster_id, '') LIKE $cluster
  ORDER BY how_much DESC, time, what, place
  LIMIT $limit::BIGINT
),
found AS (
  SELECT * FROM events UNION ALL BY NAME SELECT * FROM metrics
)
SELECT row_number() OVER (
         ORDER BY class,
                  CASE WHEN class < 3 THEN epoch(f.time) WHEN class < 6 THEN before - after
                       ELSE -how_much END,
                  f.time, what, place) AS rank,
       f.time, cluster_id, what, nullif(place, '') AS "where", before, after, how_much
FROM found AS f
ORDER BY rank

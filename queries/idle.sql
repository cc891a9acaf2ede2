-- question: How much of each cluster was idle, and what did that waste?
-- note: Idle is a minute in which no user's job was there and no CPU was taken; with `below`, also one in which the cluster's CPU use was lower than that, whatever was there. A minute in which a node reported counts as a whole minute of its cores. CPUs that a task or actor holds without using them are no idle minutes: compare core_hours_used with core_hours.
-- note: `ray_running_jobs` is not asked: it never goes back to 0 after the first `ray job submit`, because a job of Ray's own stays. Without events, that job is known by its JobSupervisor, as far as one lived for a scrape.
-- parameter: below = 0: minutes with a mean CPU use below this percentage are idle too
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: minutes: minutes in which it was there
-- column: idle_minutes: of these, idle
-- column: idle_pct: share of the core hours that went by in idle minutes, 0 to 100
-- column: core_hours: CPUs of its nodes, times hours
-- column: core_hours_used: of these, in use
-- column: core_hours_idle: of these, in idle minutes
WITH sized AS (
  SELECT minute AS moment, session, max(cluster_id) AS cluster_id,
         sum(cores) / 60 AS core_hours,
         sum(cpu_mean_pct * cores) / 6000 AS core_hours_used,
         ray_cluster_cpu_pct(cpu_mean_pct, cores) AS cpu_pct
  FROM ray_node_minutes(['cpu'])
  WHERE cores IS NOT NULL
  GROUP BY minute, session
),
taken AS (  -- one scrape with a CPU taken is enough
  SELECT minute AS moment, nullif(session_key, '') AS session,
         max(data_point_value) AS cpus_taken
  FROM ray_samples
  WHERE metric_name = 'ray_resources' AND metric_label_Name = 'CPU' AND metric_State = 'USED'
  GROUP BY moment, session_key
),
rays_own AS (
  SELECT DISTINCT nullif(session_key, '') AS session, metric_JobId AS job_id
  FROM ray_samples
  WHERE metric_name = 'ray_actors' AND metric_Source = 'executor'
    AND metric_label_Name = 'JobSupervisor'
),
jobs AS (
  SELECT j.session, date_trunc('minute', j.began) AS first_minute,
         coalesce(j.ended, TIMESTAMPTZ 'infinity') AS ended
  FROM ray_jobs AS j
  WHERE NOT coalesce(j.is_internal, false)
    AND NOT EXISTS (
      SELECT 1 FROM rays_own AS r
      WHERE r.job_id = j.job_id AND r.session IS NOT DISTINCT FROM j.session)
),
busy AS (
  SELECT DISTINCT s.moment, s.session
  FROM sized AS s
  JOIN jobs AS j
    ON j.session IS NOT DISTINCT FROM s.session
       AND s.moment >= j.first_minute AND s.moment <= j.ended
),
judged AS (
  SELECT s.*,
         b.moment IS NULL AND coalesce(t.cpus_taken = 0, false)
           OR coalesce(s.cpu_pct < $below::DOUBLE, false) AS is_idle
  FROM sized AS s
  LEFT JOIN taken AS t ON t.moment = s.moment AND t.session IS NOT DISTINCT FROM s.session
  LEFT JOIN busy AS b ON b.moment = s.moment AND b.session IS NOT DISTINCT FROM s.session
)
SELECT max(cluster_id) AS cluster_id, session,
       count(*) AS minutes,
       count(*) FILTER (is_idle) AS idle_minutes,
       100 * coalesce(sum(core_hours) FILTER (is_idle), 0) / nullif(sum(core_hours), 0)
         AS idle_pct,
       sum(core_hours) AS core_hours,
       sum(core_hours_used) AS core_hours_used,
       coalesce(sum(core_hours) FILTER (is_idle), 0) AS core_hours_idle
FROM judged
GROUP BY session
ORDER BY core_hours_idle DESC, cluster_id, session

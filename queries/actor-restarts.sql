-- question: Which actors restarted or died, how often, and why?
-- note: Ray's gauge of actors by state almost never shows RESTARTING: a restart is faster than its report. Events know each one. Without them there is only a counter of actors' processes that ended unexpectedly: each was a restart or a death, and what is intended is not in it.
-- parameter: actor = %: only actors whose class is like this SQL pattern
-- parameter: limit = 1000: at most so many rows, those with the most restarts
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: job_id: 8 hex digits; null from metrics
-- column: actor: class of the actors
-- column: restarts: how often one of them began again; null from metrics
-- column: deaths: how many of them died for good, by intent or not; null from metrics
-- column: crashes: from metrics: unexpected ends of their processes; null from events
-- column: reasons: of restarts and deaths, Ray's words, and how often; null from metrics
-- column: first_at: when the first of all of these happened
-- column: last_at: when the last of them happened
-- column: example: beginning of Ray's message about the last death
-- column: source: events or metrics
WITH steps AS (
  SELECT cluster_id, session, job_id, actor, state, reason, time, message
  FROM ray_actor_events WHERE state = 'RESTARTING' AND NOT is_internal
  UNION ALL
  -- a death may be reported more than once
  SELECT max(cluster_id), session, max(job_id), max(actor), 'DEAD',
         arg_min(reason, time), min(time), arg_min(message, time)
  FROM ray_actor_events WHERE state = 'DEAD' AND NOT is_internal
  GROUP BY session, actor_id
),
ends AS (
  SELECT cluster_id, session, job_id, actor,
         count(*) FILTER (state = 'RESTARTING') AS restarts,
         count(*) FILTER (state = 'DEAD') AS deaths,
         min(time) AS first_at, max(time) AS last_at,
         left(arg_max(message, time) FILTER (state = 'DEAD'), 200) AS example
  FROM steps GROUP BY ALL
),
reasons AS (
  SELECT session AS of_session, job_id AS of_job_id, actor AS of_actor,
         string_agg(reason || ' ' || times, ', ' ORDER BY times DESC, reason) AS reasons
  FROM (
    SELECT session, job_id, actor, coalesce(reason, 'unknown') AS reason, count(*) AS times
    FROM steps GROUP BY ALL
  )
  GROUP BY ALL
),
crashed AS (
  SELECT cluster_id, session, regexp_replace(metric_label_Name, '\.__init__$', '') AS actor,
         sum(increase)::BIGINT AS crashes, min(time) AS first_at, max(time) AS last_at
  FROM ray_increase('ray_node_manager_unexpected_worker_failure_total')
  WHERE metric_label_Type = 'Raylet.UnexpectedActorFailure.Total' AND increase > 0
    AND NOT ray_has_events(session, ['ACTOR_LIFECYCLE_EVENT'])
    AND metric_label_Name NOT LIKE '\_ray\_internal%' ESCAPE '\'
  GROUP BY ALL
),
found AS (
  SELECT cluster_id, session, job_id, actor, restarts, deaths, NULL::BIGINT AS crashes, reasons,
         first_at, last_at, example, 'events' AS source
  FROM ends AS e
  LEFT JOIN reasons AS r
    ON r.of_session IS NOT DISTINCT FROM e.session AND r.of_job_id IS NOT DISTINCT FROM e.job_id
   AND r.of_actor IS NOT DISTINCT FROM e.actor
  UNION ALL
  SELECT cluster_id, session, NULL, actor, NULL, NULL, crashes, NULL, first_at, last_at, NULL,
         'metrics'
  FROM crashed
)
FROM found
WHERE coalesce(actor, '') LIKE $actor
ORDER BY coalesce(restarts, crashes) DESC, deaths DESC, cluster_id, session, job_id, actor
LIMIT $limit::BIGINT

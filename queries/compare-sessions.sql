-- question: How does this run of a cluster differ from the last?
-- note: By default the latest session of all, and the one before it of the same cluster; name others by `later` and `earlier`. Without one before, its column is null. Attempts are exact where events are kept, and a lower bound from metrics alone: compare like with like.
-- parameter: cluster = %: only sessions of clusters whose cluster_id is like this SQL pattern
-- parameter: later = : session to look at; empty for the latest
-- parameter: earlier = : session to compare with; empty for the one before it
-- column: measure: what is compared
-- column: unit: of the values
-- column: earlier: value in the earlier session
-- column: later: value in the later session
-- column: difference: later minus earlier
-- column: earlier_session: its name
-- column: later_session: its name
WITH known AS (
  SELECT coalesce(cluster_id, '') AS cluster_id, session, first_seen, last_seen, nodes, cores, jobs
  FROM ray_sessions
  WHERE coalesce(cluster_id, '') LIKE $cluster
),
the_later AS (
  SELECT * FROM known
  WHERE if($later = '', session <> $earlier, session = $later)
  ORDER BY first_seen DESC, session DESC LIMIT 1
),
the_earlier AS (
  SELECT k.* FROM known AS k JOIN the_later AS l ON k.session <> l.session
  WHERE if($earlier = '', k.cluster_id = l.cluster_id AND k.first_seen <= l.first_seen,
           k.session = $earlier)
  ORDER BY k.first_seen DESC, k.session DESC LIMIT 1
),
two AS (
  SELECT true AS is_later, * FROM the_later UNION ALL SELECT false, * FROM the_earlier
),
nodes AS (
  SELECT session, ray_cluster_cpu_pct(cpu_mean_pct, cores) AS cpu_pct,
         max(memory_used_pct) AS memory_pct, max(object_store_used_pct) AS store_pct
  FROM ray_node_minutes(['cpu', 'memory', 'object_store']) GROUP BY session
),
from_events AS (  -- sessions whose tasks are known from events
  SELECT session, count(*) FILTER (state = 'FINISHED' AND NOT is_internal) AS finished
  FROM ray_task_attempts GROUP BY session
),
counted AS (
  SELECT session, sum(finished) AS finished, sum(spilled_bytes) AS spilled_bytes
  FROM (
    SELECT session, attempts AS finished, NULL::DOUBLE AS spilled_bytes
    FROM ray_task_ends WHERE state = 'FINISHED'
    UNION ALL
    SELECT session, NULL, increase
    FROM ray_increase('ray_spill_manager_objects_bytes') WHERE metric_State = 'Spilled'
  )
  GROUP BY session
),
failures AS (
  SELECT session, sum(failed_attempts) AS failed FROM ray_task_failures GROUP BY session
),
measured AS (
  SELECT t.is_later, t.session, unnest([
    {'place': 1, 'measure': 'duration', 'unit': 'minutes',
     'amount': epoch(t.last_seen - t.first_seen) / 60},
    {'place': 2, 'measure': 'nodes', 'unit': 'nodes', 'amount': t.nodes::DOUBLE},
    {'place': 3, 'measure': 'cores', 'unit': 'cores', 'amount': t.cores},
    {'place': 4, 'measure': 'CPU, mean', 'unit': 'percent', 'amount': n.cpu_pct},
    {'place': 5, 'measure': 'memory, peak', 'unit': 'percent', 'amount': n.memory_pct},
    {'place': 6, 'measure': 'jobs', 'unit': 'jobs', 'amount': t.jobs::DOUBLE},
    {'place': 7, 'measure': 'finished', 'unit': 'attempts',
     'amount': coalesce(e.finished::DOUBLE, c.finished, 0)},
    {'place': 8, 'measure': 'failed', 'unit': 'attempts',
     'amount': coalesce(f.failed, 0)::DOUBLE},
    {'place': 9, 'measure': 'object store, peak', 'unit': 'percent', 'amount': n.store_pct},
    {'place': 10, 'measure': 'spilled', 'unit': 'bytes', 'amount': c.spilled_bytes}
  ], recursive := true)
  FROM two AS t
  LEFT JOIN nodes AS n ON n.session = t.session
  LEFT JOIN from_events AS e ON e.session = t.session
  LEFT JOIN counted AS c ON c.session = t.session
  LEFT JOIN failures AS f ON f.session = t.session
)
SELECT measure, unit,
       max(amount) FILTER (NOT is_later) AS earlier,
       max(amount) FILTER (is_later) AS later,
       max(amount) FILTER (is_later) - max(amount) FILTER (NOT is_later) AS difference,
       max(session) FILTER (NOT is_later) AS earlier_session,
       max(session) FILTER (is_later) AS later_session
FROM measured
GROUP BY place, measure, unit
ORDER BY place

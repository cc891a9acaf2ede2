-- question: Which clusters were there, when, how big, how busy, and how much failed?
-- note: A session is one life of a cluster, from `ray start` to `ray stop`; its id changes with every restart, so the published query, which takes the session for the cluster, shows a new cluster after each, and its nodes are one, for Ray's node metrics have no NodeAddress.
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: nodes: nodes that reported their CPUs
-- column: first_seen: first scrape or event of the session
-- column: last_seen: last scrape or event of the session
-- column: cpu_mean_pct: mean CPU use, each node weighted by its CPUs, 0 to 100
-- column: failed_attempts: task attempts that failed
-- column: jobs: jobs that ran, Ray's own left out
WITH cpu AS (
  -- a node that was scraped less often counts less
  SELECT session, ray_cluster_cpu_pct(cpu_mean_pct, cores * scrapes) AS cpu_mean_pct
  FROM ray_node_minutes(['cpu']) GROUP BY session
),
failures AS (
  SELECT session, sum(failed_attempts)::BIGINT AS failed_attempts
  FROM ray_task_failures GROUP BY ALL
)
SELECT cluster_id, session, nodes, first_seen, last_seen, cpu_mean_pct,
       coalesce(failed_attempts, 0) AS failed_attempts, jobs
FROM ray_sessions
LEFT JOIN cpu USING (session)
LEFT JOIN failures USING (session)
ORDER BY first_seen, session

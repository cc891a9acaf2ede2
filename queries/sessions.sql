-- question: Which clusters were there before, and what is kept of them?
-- note: A session is one life of a cluster, from `ray start` to `ray stop`; its id changes with every restart. `compare-sessions` sets two of them side by side, `fleet` adds how busy they were.
-- parameter: cluster = %: only clusters whose cluster_id is like this SQL pattern
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: first_seen: first sample or event in the time range
-- column: last_seen: last sample or event
-- column: hours: from the first to the last
-- column: nodes: nodes that were there at some time
-- column: cores: most CPUs at a time; null without metrics
-- column: jobs: jobs of users
-- column: has_metrics: whether any metrics are kept
-- column: has_events: whether any events are kept
SELECT cluster_id, session, first_seen, last_seen,
       epoch(last_seen - first_seen) / 3600 AS hours,
       nodes, cores, jobs, has_metrics, has_events
FROM ray_sessions
WHERE coalesce(cluster_id, '') LIKE $cluster
ORDER BY first_seen, cluster_id, session

-- about: task attempts that failed, minute by minute: by job, task and reason where Ray's events are kept, by task from metrics where not
-- note: Attempts, not tasks: a task that fails after two retries counts three times. For a session whose task events are there, every number is from them, and exact; the metrics of such a session are not read.
-- note: ray_tasks is a gauge of running totals per owner process: summing it over scrapes, as the published query does, counts every failure again with every scrape. Here each rise counts once. What was counted before the first scrape is history; two owners on one node that run tasks of one name make it a lower bound.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: where it ran, from events its node id; from metrics the scrape target of its owner
-- column: node_from: event, instance or address: what `node` is
-- column: instance: scrape target of the owner; null from events
-- column: job_id: null from metrics, which do not tell
-- column: task: name of the task or actor method
-- column: error_type: Ray's word for why; null from metrics
-- column: failed_attempts: how many
-- column: source: events or metrics
-- example: SELECT task, error_type, sum(failed_attempts) AS failed, any_value(source) AS source FROM ray_task_failures GROUP BY ALL ORDER BY failed DESC
-- needs: ray_task_attempts, ray_task_ends
CREATE VIEW ray_task_failures AS
SELECT minute, cluster_id, session, node, node_from, instance, NULL::VARCHAR AS job_id, task,
       NULL::VARCHAR AS error_type, sum(attempts)::BIGINT AS failed_attempts, 'metrics' AS source
FROM ray_task_ends
WHERE state = 'FAILED'
GROUP BY ALL
UNION ALL BY NAME
SELECT date_trunc('minute', ended) AS minute, cluster_id, session, node_id AS node,
       if(node_id IS NULL, NULL, 'event') AS node_from, NULL::VARCHAR AS instance,
       job_id, task, error_type, count(*) AS failed_attempts, 'events' AS source
FROM ray_task_attempts
WHERE state = 'FAILED' AND NOT is_internal
GROUP BY ALL;

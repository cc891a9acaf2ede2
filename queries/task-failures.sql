-- question: How many task attempts failed, by task and minute?
-- note: ray_tasks is a gauge of running totals per owner process: summing it over scrapes, as the published query does, counts every failure again with every scrape. Here each rise counts once; where Ray's events are kept, every number is from them and exact. Attempts, not tasks: a task that fails after two retries counts three times. From metrics a lower bound where two owners on one node run tasks of one name.
-- parameter: task = %: only tasks whose name is like this SQL pattern
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: task: name of the task or actor method
-- column: failed_attempts: attempts that failed in this minute
-- column: source: events or metrics
SELECT minute, cluster_id, task, sum(failed_attempts)::BIGINT AS failed_attempts, source
FROM ray_task_failures
WHERE task LIKE $task
GROUP BY ALL
ORDER BY ALL

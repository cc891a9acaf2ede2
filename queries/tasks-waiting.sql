-- question: Which tasks had to wait, how many at a time, and for what?
-- note: Two reports that must not be added up. `tasks`: Ray's own count of tasks by state, per task. `scheduler`: what the schedulers of all nodes hold back, without a name but with their reason; a task that no node could ever run is Infeasible there and merely waits for a node in the other. Ray counts a task where it was submitted and corrects where it runs, so only sums over a whole cluster mean something.
-- parameter: task = %: only tasks whose name is like this SQL pattern; the scheduler's rows have none
-- parameter: limit = 1000: at most so many rows, those with the highest peaks
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: reported_by: tasks or scheduler
-- column: task: name of the task or actor method; null from the scheduler
-- column: waits_for: what is missing, in words
-- column: state: Ray's word for it
-- column: peak_tasks: most in a minute, on average over that minute
-- column: peak_minute: start of that minute, UTC
-- column: waiting_minutes: minutes in which any waited
-- column: waited_task_seconds: time that they waited, all of them together
WITH waiting AS (
  SELECT minute, cluster_id, session, 'tasks' AS reported_by, task, waits_for, state, tasks
  FROM ray_task_states
  WHERE phase = 'waiting'
    AND NOT ray_is_internal(task)
  UNION ALL
  SELECT minute, cluster_id, session, 'scheduler', NULL,
         CASE metric_Reason
           WHEN 'Infeasible' THEN 'resources that no node has'
           WHEN 'WaitingForResources' THEN 'a node with free resources'
           WHEN 'WaitingForPlasmaMemory' THEN 'room in the object store'
           WHEN 'WaitingForRemoteResources' THEN 'free resources on another node'
           WHEN 'WaitingForWorkers' THEN 'its worker begins'
           ELSE metric_Reason
         END,
         metric_Reason, sum(mean_count)
  FROM ray_mean_counts('ray_scheduler_unscheduleable_tasks')
  WHERE mean_count > 0
  GROUP BY ALL
)
SELECT cluster_id, session, reported_by, task, waits_for, state,
       -- rounded, lest the order in which numbers were added up decides which minute was first
       max(round(tasks, 3)) AS peak_tasks,
       arg_max(minute, [round(tasks, 3), -epoch(minute)]) AS peak_minute,
       count(DISTINCT minute) AS waiting_minutes, round(60 * sum(tasks), 1) AS waited_task_seconds
FROM waiting
WHERE task IS NULL OR task LIKE $task
GROUP BY ALL
ORDER BY reported_by DESC, peak_tasks DESC, cluster_id, session, task, state
LIMIT $limit::BIGINT

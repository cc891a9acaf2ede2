-- about: how many tasks were in which state, minute by minute: running, or waiting and for what
-- note: A mean over the minute. Ray counts a task where it was submitted and corrects where it runs, with negative numbers, so a number holds for a whole cluster and not for one node. FINISHED and FAILED are running totals and not here: see ray_task_failures and metric_owner_increase.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: always null: it is of the whole cluster
-- column: instance: always null
-- column: task: name of the task or actor method
-- column: state: Ray's word
-- column: phase: running or waiting
-- column: waits_for: what it waits for, in words; null while it runs
-- column: tasks: how many, on average
-- example: SELECT waits_for, max(tasks) AS most FROM ray_task_states WHERE phase = 'waiting' GROUP BY ALL ORDER BY most DESC
-- needs: ray_mean_counts
CREATE VIEW ray_task_states AS
SELECT minute, cluster_id, session, NULL::VARCHAR AS node, NULL::VARCHAR AS instance,
       task, state,
       if(starts_with(state, 'RUNNING'), 'running', 'waiting') AS phase,
       CASE
         WHEN starts_with(state, 'RUNNING') THEN NULL
         WHEN state = 'PENDING_ARGS_AVAIL' THEN 'its arguments are not made yet'
         WHEN state = 'PENDING_NODE_ASSIGNMENT' THEN 'a node with free resources'
         WHEN state = 'PENDING_OBJ_STORE_MEM_AVAIL' THEN 'room in the object store'
         WHEN state IN ('PENDING_ARGS_FETCH', 'PENDING_ACTOR_TASK_ARGS_FETCH',
                        'GETTING_AND_PINNING_ARGS') THEN 'its arguments come over the network'
         WHEN state = 'SUBMITTED_TO_WORKER' THEN 'its worker begins'
         WHEN state = 'PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY' THEN 'its turn on the actor'
         ELSE lower(replace(state, '_', ' '))
       END AS waits_for,
       greatest(sum(mean_count), 0) AS tasks
FROM (
  SELECT *, metric_label_Name AS task, metric_State AS state FROM ray_mean_counts('ray_tasks')
)
WHERE state NOT IN ('FINISHED', 'FAILED')
GROUP BY ALL
HAVING sum(mean_count) > 0;

-- about: whether a task is a driver, by its id, also where its kind is not known
-- parameter: task_id: of the task
-- example: SELECT count(*) AS attempts FROM ray_task_attempts WHERE NOT ray_is_driver(task_id)
CREATE MACRO ray_is_driver(task_id) AS starts_with(task_id, repeat('f', 40));

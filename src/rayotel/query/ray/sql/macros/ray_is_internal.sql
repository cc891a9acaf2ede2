-- about: whether a task is of Ray's own doing, by its name
-- parameter: task: name of the task or actor method
-- example: SELECT DISTINCT metric_label_Name AS task FROM raymetrics WHERE metric_name = 'ray_tasks' AND ray_is_internal(metric_label_Name)
CREATE MACRO ray_is_internal(task) AS
  (task LIKE 'JobSupervisor.%' OR task LIKE '\_ray\_internal%' ESCAPE '\');

"""The queries that the pipeline was published with, character for character."""

NODE_CPU = """SELECT
DATE_TRUNC('minute', raymetrics.p_timestamp) AS minute,
raymetrics."metric_NodeAddress" AS node,
AVG(raymetrics.data_point_value) AS avg_cpu
FROM raymetrics
WHERE raymetrics."metric_name" = 'ray_node_cpu_utilization'
GROUP BY minute, node
ORDER BY minute, node;"""
FAILED_TASKS = """SELECT
DATE_TRUNC('minute', p_timestamp) AS window,
metric_JobId AS job,
metric_State AS state,
SUM(data_point_value) AS task_count
FROM raymetrics
WHERE metric_name = 'ray_tasks'
AND metric_State = 'FAILED'
GROUP BY window, job, state
ORDER BY window, task_count DESC;"""
OBJECT_STORE = """SELECT
DATE_TRUNC('minute', p_timestamp) AS minute,
metric_NodeAddress AS node,
metric_ObjectState AS object_state,
AVG(data_point_value) AS avg_memory
FROM raymetrics
WHERE metric_name = 'ray_object_store_memory'
GROUP BY minute, node, object_state
ORDER BY minute, node;"""
CLUSTERS = """SELECT
metric_SessionName AS cluster,
metric_NodeAddress AS node,
AVG(data_point_value) AS avg_cpu
FROM raymetrics
WHERE metric_name = 'ray_node_cpu_utilization'
GROUP BY cluster, node;"""

PUBLISHED = {
    "CPU by minute": NODE_CPU,
    "failed tasks": FAILED_TASKS,
    "object store": OBJECT_STORE,
    "CPU": CLUSTERS,
}

-- about: by how much one of Ray's counters rose, sample by sample, with the keys that all views share
-- note: metric_increase says how rises are counted. For counters, and for gauges that only rise.
-- parameter: metric: name of the metric, quoted
-- column: minute: start of the minute, UTC
-- column: time: when the sample was taken, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: session: Ray's session: one life of a cluster
-- column: node: scrape target, else the node's address
-- column: node_from: instance or address: which of the two `node` is
-- column: instance: scrape target
-- column: increase: by how much it rose since the sample before
-- column: ...: every other column of metric_increase, labels among them
-- example: SELECT minute, node, sum(increase) AS spilled_bytes FROM ray_increase('ray_spill_manager_objects_bytes') WHERE metric_State = 'Spilled' GROUP BY ALL HAVING spilled_bytes > 0
-- needs: metric_increase, ray_cluster, ray_node, ray_node_from, ray_targets, raymetrics
CREATE MACRO ray_increase(metric) AS TABLE
SELECT date_trunc('minute', i.time) AS minute, i.time,
       coalesce(nullif(i.metric_cluster_id, ''), ray_cluster(i.cluster_id, t.cluster_id))
         AS cluster_id,
       nullif(i.metric_SessionName, '') AS session,
       ray_node(i.metric_instance, i.metric_NodeAddress) AS node,
       ray_node_from(i.metric_instance, i.metric_NodeAddress) AS node_from,
       nullif(i.metric_instance, '') AS instance,
       i.increase, i.* EXCLUDE (time, cluster_id, increase)
FROM metric_increase('raymetrics', metric) AS i
LEFT JOIN ray_targets AS t
  ON t.session_key = coalesce(i.metric_SessionName, '')
 AND t.instance_key = coalesce(i.metric_instance, '');

-- about: the metrics stream with the keys that the other views share; for building more of them
-- note: The keys have '' where a sample has no such label, so that they can be compared.
-- column: minute: start of the minute, UTC
-- column: instance_key: scrape target
-- column: session_key: Ray's session: one life of a cluster
-- column: address_key: NodeAddress or ip
-- column: cluster_key: cluster_id as label or header of this very sample
-- column: ...: every column of the stream
-- example: SELECT minute, instance_key, avg(data_point_value) FROM ray_samples WHERE metric_name = 'ray_node_cpu_utilization' GROUP BY ALL
-- needs: raymetrics
CREATE VIEW ray_samples AS
SELECT *,
       date_trunc('minute', time_unix_nano) AS minute,
       coalesce(metric_instance, '') AS instance_key,
       coalesce(metric_SessionName, '') AS session_key,
       coalesce(metric_NodeAddress, '') AS address_key,
       coalesce(nullif(metric_cluster_id, ''), cluster_id, '') AS cluster_key
FROM raymetrics;

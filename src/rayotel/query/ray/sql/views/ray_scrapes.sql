-- about: every scrape of every endpoint, by the metrics that each scrape has
-- note: An endpoint can have several such series, and a scrape can be stored twice: count distinct times.
-- column: minute: start of the minute, UTC
-- column: time: when it was, UTC
-- column: endpoint: node, autoscaler or dashboard; info for a node's target_info, which has no session; other where only `up` shows it
-- column: arrived_at: when it arrived here
-- column: series_id: series that shows it
-- column: instance_key: as in ray_samples, like the following
-- column: session_key: Ray's session: one life of a cluster
-- column: address_key: NodeAddress or ip
-- column: cluster_key: cluster_id as label or header of this very sample
-- example: SELECT instance_key, count(DISTINCT time) AS scrapes FROM ray_scrapes WHERE endpoint = 'node' GROUP BY ALL
-- needs: ray_samples, ray_scrape_markers
CREATE VIEW ray_scrapes AS
SELECT minute, time_unix_nano AS time, ray_scrape_markers()[metric_name] AS endpoint,
       p_timestamp AS arrived_at, series_id, instance_key, session_key, address_key, cluster_key
FROM ray_samples
WHERE metric_name IN map_keys(ray_scrape_markers());

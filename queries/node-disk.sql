-- question: How full is each node's disk, and how much is read and written, minute by minute?
-- note: Ray makes no more objects on a node whose disk is full to 95 %. Raylets on one host each report the disk of the host: do not add them up.
-- parameter: min_pct = 0: only minutes in which the disk was at least this full, 0 to 100
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else the node's address
-- column: disk_used_bytes: highest use in the minute within the minute
-- column: disk_used_pct: highest share in use within the minute, 0 to 100
-- column: disk_read_bytes_per_second: mean of the minute
-- column: disk_written_bytes_per_second: mean of the minute
SELECT minute, cluster_id, node, disk_used_bytes, disk_used_pct, disk_read_bytes_per_second,
       disk_written_bytes_per_second
FROM ray_node_minutes(['disk'])
WHERE $min_pct::DOUBLE <= 0 OR disk_used_pct >= $min_pct::DOUBLE
ORDER BY minute, cluster_id, node

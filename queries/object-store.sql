-- question: How full is each node's object store, and does it spill?
-- note: Fullness is used / (used + available). Ray spills at 80 %, so a store near 80 % is at work, not in danger; beyond 90 %, or with fallback in use, it is. Ray's own dashboard adds what was spilled and can show far more than 100 %; the published query averages over locations and states that are not in the store.
-- column: minute: start of the minute, UTC
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else the node's address
-- column: object_store_used_pct: highest fullness within the minute, 0 to 100
-- column: on_disk_bytes: most bytes held on disk within the minute
-- column: fallback_bytes: most bytes allocated on disk as a last resort within the minute
SELECT minute, cluster_id, node, object_store_used_pct, on_disk_bytes, fallback_bytes
FROM ray_node_minutes(['object_store'])
WHERE object_store_capacity_bytes > 0
ORDER BY ALL

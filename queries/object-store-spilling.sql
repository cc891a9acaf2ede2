-- question: When and where did the object store write to disk and read back, and did it thrash?
-- note: Spilling some of what does not fit is the store at work. It thrashes when it reads back the same objects again and again: here, when within an hour more than twice as much was read back as was written or lay on disk. Fallback is memory mapped on disk because nothing could be spilled: very slow.
-- parameter: limit = 10000: at most so many rows, the latest
-- column: minute: start of the minute, UTC; only those in which something was spilled, restored or in fallback
-- column: cluster_id: which cluster; see ray_targets
-- column: node: scrape target, else the node's address
-- column: object_store_used_pct: highest fullness of the store in memory, 0 to 100
-- column: spilled_bytes: written to disk in this minute
-- column: restored_bytes: read back in this minute
-- column: on_disk_bytes: most bytes held on disk at a time
-- column: fallback_bytes: most bytes allocated on disk as a last resort
-- column: is_thrashing: whether the hour up to this minute read back more than twice what it wrote or held on disk
WITH hours AS (
  SELECT *,
         sum(restored_bytes) OVER an_hour
           > 2 * greatest(sum(spilled_bytes) OVER an_hour, max(on_disk_bytes) OVER an_hour)
           AND restored_bytes > 0 AS is_thrashing
  FROM ray_object_store
  WHERE spilled_bytes > 0 OR restored_bytes > 0 OR fallback_bytes > 0 OR on_disk_bytes > 0
  WINDOW an_hour AS (
    PARTITION BY session, node ORDER BY minute
    RANGE BETWEEN INTERVAL 59 MINUTES PRECEDING AND CURRENT ROW
  )
)
FROM (
  SELECT minute, cluster_id, node, object_store_used_pct,
         spilled_bytes::BIGINT AS spilled_bytes,
         restored_bytes::BIGINT AS restored_bytes, on_disk_bytes::BIGINT AS on_disk_bytes,
         fallback_bytes::BIGINT AS fallback_bytes, is_thrashing
  FROM hours
  WHERE spilled_bytes > 0 OR restored_bytes > 0 OR fallback_bytes > 0
  ORDER BY minute DESC, cluster_id, node
  LIMIT $limit::BIGINT
)
ORDER BY minute, cluster_id, node

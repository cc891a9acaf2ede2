-- question: Which nodes were lost, when and why, and did their place fill again?
-- note: From events a loss is what Ray declared dead, by default half a minute after the fact; from metrics a target that fell silent while others of its session reported, dated to its last scrape. A silence of all targets at once is a gap of the watching, not a loss. A node that comes back has a new node id: it is back when its address has as many nodes as before.
-- note: Ray's counter of node failures has neither the node nor its return; a rise without a silent node is a row without node.
-- parameter: silent_seconds = 60: from metrics: how long a target must be silent to be lost
-- parameter: limit = 1000: at most so many rows, the latest
-- column: lost_at: when it was declared dead; from metrics its last scrape before the silence
-- column: cluster_id: which cluster; see ray_targets
-- column: node: from events its node id; from metrics the scrape target, else the address
-- column: address: its IP address
-- column: reason: Ray's word; null from metrics
-- column: message: the same at length; null from metrics
-- column: is_expected: whether the end was intended; null if unknown
-- column: back_at: when its place was filled again; null where it was not
-- column: away_seconds: from lost_at to back_at
-- column: source: events or metrics
WITH steps AS (  -- a step may be reported more than once
  SELECT session, node_id, max(cluster_id) AS cluster_id, max(address) AS address,
         state, min(time) AS time, arg_min(reason, time) AS reason,
         arg_min(message, time) AS message, if(state = 'DEAD', -1, 1) AS change
  FROM ray_node_events
  WHERE state = 'DEAD' OR state = 'ALIVE' AND sub_state IS NULL
  GROUP BY session, node_id, state
),
counts AS (  -- nodes of an address; where it began does not matter
  SELECT *, sum(change) OVER (
    PARTITION BY session, address ORDER BY time, change ROWS UNBOUNDED PRECEDING) AS nodes
  FROM steps
),
declared AS (
  SELECT d.session, d.node_id, d.time AS lost_at, max(d.cluster_id) AS cluster_id,
         max(d.address) AS address, max(d.reason) AS reason,
         max(d.message) AS message, min(a.time) AS back_at
  FROM counts AS d
  LEFT JOIN counts AS a
    ON a.session IS NOT DISTINCT FROM d.session AND a.address = d.address
   AND a.state = 'ALIVE' AND a.time > d.time AND a.nodes > d.nodes
  WHERE d.state = 'DEAD'
  GROUP BY d.session, d.node_id, d.time
),
scrapes AS (
  SELECT DISTINCT session_key, instance_key, address_key, cluster_key, time AS moment
  FROM ray_scrapes
  WHERE endpoint = 'node' AND NOT ray_has_events(session_key, ['NODE_LIFECYCLE_EVENT'])
),
steady AS (  -- the last scrape of the session stands behind every node's last
  SELECT *, coalesce(lead(moment) OVER one_node, max(moment) OVER one_session) AS next_moment,
         lead(moment) OVER one_node AS back_at
  FROM scrapes
  WINDOW one_node AS (PARTITION BY session_key, instance_key, address_key ORDER BY moment),
         one_session AS (PARTITION BY session_key)
),
heard AS (  -- which targets there were at all, every ten seconds
  SELECT session_key, time_bucket(INTERVAL 10 SECONDS, moment) AS moment,
         min(instance_key || ' ' || address_key) AS one, max(instance_key || ' ' || address_key)
           AS other
  FROM scrapes GROUP BY ALL
),
silences AS (
  SELECT s.session_key, s.instance_key, s.address_key, s.cluster_key, s.moment AS lost_at,
         s.back_at
  FROM (FROM steady WHERE epoch(next_moment - moment) > $silent_seconds::DOUBLE) AS s
  WHERE (  -- somebody else was heard in the middle of it
    SELECT count(*) FROM heard AS o
    WHERE o.session_key = s.session_key
      AND (o.one <> s.instance_key || ' ' || s.address_key OR o.other <> o.one)
      AND o.moment BETWEEN s.moment + INTERVAL 15 SECONDS AND s.next_moment - INTERVAL 15 SECONDS
  ) > 0
),
failures AS (  -- a row for every node that the head counted
  SELECT time, session, cluster_id, unnest(range(increase::BIGINT)) AS nth
  FROM ray_increase('ray_node_failure_total')
  WHERE increase > 0 AND NOT ray_has_events(session, ['NODE_LIFECYCLE_EVENT'])
),
unexplained AS (  -- Ray needs up to a minute to declare a node dead, and then comes a scrape
  SELECT * FROM failures AS f
  WHERE nth >= (
    SELECT count(*) FROM silences AS s
    WHERE s.session_key = coalesce(f.session, '')
      AND f.time BETWEEN s.lost_at AND s.lost_at + INTERVAL 3 MINUTES
  )
),
lost AS (
  SELECT lost_at, cluster_id, node_id AS node, address, reason, message,
         reason IN ('EXPECTED_TERMINATION', 'AUTOSCALER_DRAIN_IDLE') AS is_expected, back_at,
         'events' AS source
  FROM declared
  UNION ALL
  SELECT lost_at, ray_cluster(cluster_key, t.cluster_id),
         ray_node(instance_key, address_key), nullif(address_key, ''),
         NULL, NULL, NULL, back_at, 'metrics'
  FROM silences LEFT JOIN ray_targets AS t USING (session_key, instance_key)
  UNION ALL
  SELECT time, cluster_id, NULL, NULL, NULL, NULL, NULL, NULL, 'metrics'
  FROM unexplained
)
FROM (
  SELECT lost_at, cluster_id, node, address, reason, message, is_expected, back_at,
         epoch(back_at - lost_at) AS away_seconds, source
  FROM lost
  ORDER BY lost_at DESC, cluster_id, node
  LIMIT $limit::BIGINT
)
ORDER BY lost_at, cluster_id, node

-- about: metrics that are there in every scrape of an endpoint, with the endpoint
-- note: up is not Ray's: other scrapers add it to every target.
-- example: SELECT unnest(map_entries(ray_scrape_markers()), recursive := true)
CREATE MACRO ray_scrape_markers() AS MAP {
  'ray_node_cpu_count': 'node',
  'autoscaler_active_nodes': 'autoscaler',
  'ray_dashboard_event_loop_lag_seconds': 'dashboard',
  'target_info': 'info',
  'up': 'other'
};

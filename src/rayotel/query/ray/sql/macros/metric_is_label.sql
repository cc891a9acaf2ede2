-- about: whether a column of a metrics stream holds a label, a header or a resource attribute
-- parameter: name: of the column
-- example: SELECT any_value(COLUMNS(lambda name: metric_is_label(name))) FROM raymetrics
CREATE MACRO metric_is_label(name) AS
  name NOT IN (
    'p_timestamp', 'time_unix_nano', 'start_time_unix_nano', 'metric_name', 'metric_type',
    'metric_unit', 'metric_description', 'metric_metadata', 'data_point_value',
    'data_point_value_int', 'data_point_flags', 'aggregation_temporality', 'is_monotonic',
    'data_point_count', 'data_point_sum', 'data_point_min', 'data_point_max',
    'data_point_bucket_counts', 'data_point_explicit_bounds', 'data_point_buckets_repaired',
    'data_point_scale', 'data_point_zero_count', 'data_point_zero_threshold', 'positive_offset',
    'positive_bucket_count', 'negative_offset', 'negative_bucket_count',
    'data_point_quantile_values_quantile', 'data_point_quantile_values_value',
    'data_point_exemplars', 'series_id', 'scope_name', 'scope_version', 'scope_schema_url',
    'scope_dropped_attributes_count', 'resource_schema_url', 'resource_dropped_attributes_count',
    'resource_entity_refs', 'p_src_ip', 'p_user_agent', 'labels_overflow'
  );

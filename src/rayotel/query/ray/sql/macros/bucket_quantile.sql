-- about: an aggregate: a quantile over rows that are buckets, as histogram_buckets gives them
-- parameter: q: 0 to 1
-- parameter: upper_bound: of each bucket; Infinity for the last
-- parameter: total: observations in each bucket; one row per upper_bound within a group
-- example: SELECT bucket_quantile(0.5, upper_bound, total) FROM (VALUES (1.0, 5), (2.0, 5), ('Infinity'::DOUBLE, 0)) AS t (upper_bound, total)
-- needs: histogram_quantile
CREATE MACRO bucket_quantile(q, upper_bound, total) AS
  histogram_quantile(
    q,
    list(upper_bound ORDER BY upper_bound) FILTER (NOT isinf(upper_bound)),
    list(total ORDER BY upper_bound));

-- about: a stream with its labels as they were sent: without the address that rayotel fills in where a metric has only ip
-- parameter: stream: name of a metrics stream, quoted
-- column: ...: every column of the stream
-- example: SELECT DISTINCT metric_NodeAddress, metric_ip FROM metric_sent_labels('raymetrics') WHERE metric_name = 'ray_node_cpu_count'
CREATE MACRO metric_sent_labels(stream) AS TABLE
SELECT * REPLACE (if(metric_ip IS NULL, metric_NodeAddress, NULL) AS metric_NodeAddress)
FROM query_table(stream);

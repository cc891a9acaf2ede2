"""Which of DuckDB's functions a question may call, decided for each of them.

A table function may be called only if it is allowed here, so what a later DuckDB adds is refused
until somebody has decided. Scalar functions compute; those that do more are refused by name. A test
compares both lists with all functions of the installed DuckDB.
"""

from __future__ import annotations

ALLOWED_TABLE_FUNCTIONS = frozenset(
    {
        # rows from nothing, or from their arguments
        *("generate_series", "range", "repeat", "repeat_row", "unnest", "json_each", "json_tree"),
        *("summary", "test_all_types", "test_vector_types", "histogram", "histogram_values"),
        # the parts of the lake, for DuckDB's lock keeps from other files
        *("read_parquet", "parquet_scan", "parquet_schema", "parquet_metadata"),
        *("parquet_file_metadata", "parquet_full_metadata", "parquet_kv_metadata"),
        "parquet_bloom_probe",
        # what is in the session
        *("duckdb_columns", "duckdb_constraints", "duckdb_databases", "duckdb_dependencies"),
        *("duckdb_functions", "duckdb_indexes", "duckdb_keywords", "duckdb_optimizers"),
        *("duckdb_schemas", "duckdb_sequences", "duckdb_settings", "duckdb_tables"),
        *("duckdb_types", "duckdb_variables", "duckdb_views", "duckdb_extensions"),
        *("duckdb_memory", "duckdb_temporary_files", "duckdb_approx_database_count"),
        *("duckdb_connection_count", "duckdb_coordinate_systems", "duckdb_profiling_settings"),
        *("icu_calendar_names", "pg_timezone_names", "pragma_collations", "pragma_database_size"),
        *("pragma_metadata_info", "pragma_platform", "pragma_show", "pragma_storage_info"),
        *("pragma_table_info", "pragma_version"),
    }
)
REFUSED_TABLE_FUNCTIONS = frozenset(
    {
        # run a text as SQL, or read a table that a text names
        *("query", "query_table", "json_execute_serialized_sql"),
        # change the session, or write
        *("checkpoint", "force_checkpoint", "enable_logging", "disable_logging"),
        *("enable_profiling", "disable_profiling", "truncate_duckdb_logs"),
        # show credentials, or what other questions did
        *("duckdb_secrets", "duckdb_secret_types", "which_secret", "duckdb_prepared_statements"),
        *("duckdb_logs", "duckdb_logs_parsed", "duckdb_log_contexts"),
        *("duckdb_external_file_cache", "pragma_user_agent"),
        # read files that are no parts
        *("glob", "read_blob", "read_csv", "read_csv_auto", "read_duckdb", "read_json"),
        *("read_json_auto", "read_json_objects", "read_json_objects_auto", "read_ndjson"),
        *("read_ndjson_auto", "read_ndjson_objects", "read_text", "sniff_csv"),
        # take addresses of memory, or are for DuckDB's own use
        *("arrow_scan", "arrow_scan_dumb", "pandas_scan", "python_map_function", "seq_scan"),
        "duckdb_table_sample",
    }
)
REFUSED_FUNCTIONS = frozenset({"write_log", "getenv"})

"""DuckDB over one snapshot of the catalog."""

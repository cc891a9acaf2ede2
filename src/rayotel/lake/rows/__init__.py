"""From decoded batches to Arrow tables, by hour."""

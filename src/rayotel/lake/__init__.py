"""What a stream is on storage: signals, columns, keys, parts, catalog."""

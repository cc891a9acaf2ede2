"""What a stream is on storage: schema, keys, parts, storage, catalog."""

"""HTTP receiver, OTLP decoding, WAL, committer."""

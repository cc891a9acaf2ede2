"""HTTP receiver, OTLP decoding, write-ahead log, committer."""

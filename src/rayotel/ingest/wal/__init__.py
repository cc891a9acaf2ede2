"""The write-ahead log (WAL) and what it remembers."""

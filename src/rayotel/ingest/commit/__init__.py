"""From the WAL to the lake."""

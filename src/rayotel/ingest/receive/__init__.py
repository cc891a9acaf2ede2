"""From an HTTP request to a record, and back to an answer."""

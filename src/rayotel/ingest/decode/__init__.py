"""From a record to a batch of columns."""

"""A bounded process for each question."""

"""What every route needs, whoever serves it."""

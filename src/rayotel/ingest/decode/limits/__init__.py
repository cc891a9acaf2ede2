"""What a body may not exceed, and what settings leave out of it."""

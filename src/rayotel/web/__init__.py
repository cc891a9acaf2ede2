"""HTTP routes that read."""

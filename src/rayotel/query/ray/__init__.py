"""What rayotel knows of Ray, as SQL and as data."""

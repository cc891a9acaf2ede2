"""Bytes of a lake by key."""

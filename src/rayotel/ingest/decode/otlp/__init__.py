"""OTLP: the reference that reads any request, and what leads to it."""

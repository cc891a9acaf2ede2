"""The `rayotel` command."""

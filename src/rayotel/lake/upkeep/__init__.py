"""What keeps a lake small and whole."""

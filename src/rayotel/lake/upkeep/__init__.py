"""Work that keeps a lake small and whole."""

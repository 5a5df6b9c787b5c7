"""The same calls without await."""

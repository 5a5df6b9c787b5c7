"""Temporal, which needs an environment of its own."""

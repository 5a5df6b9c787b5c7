"""Tests that take minutes: not in `pytest`, but in the gate and in `pytest tests/exhaustive`."""

"""How a shared ledger grows: `python -m benchmarks.fleet`; docs/fleet.md has what it prints."""

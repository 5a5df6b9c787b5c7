"""What qsessions costs beside its peers: `python -m benchmarks` prints it as one table."""

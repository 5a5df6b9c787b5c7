"""The service as data: what to send, and how to read what comes back. Nothing here waits, sends or reads a clock."""

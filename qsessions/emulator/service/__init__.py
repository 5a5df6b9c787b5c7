"""The service itself, without a network: its sessions, jobs, limits and answers."""

"""A fleet of processes on a real PostgreSQL; needs its server and pgbouncer."""

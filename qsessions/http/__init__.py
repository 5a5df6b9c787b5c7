"""How one request travels: attempts, retries, the connection pool."""

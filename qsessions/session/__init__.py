"""A session's life: create it, open it, watch it, find it again, end it."""

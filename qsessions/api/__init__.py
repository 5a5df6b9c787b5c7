"""The service as data: what to send, and how to read answers. No await, no clock, no socket."""

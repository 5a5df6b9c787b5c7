"""The emulator, used by clients that others wrote, and its page in a real browser: `pytest tests/peers`."""

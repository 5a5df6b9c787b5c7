"""Programs that tests run as processes of their own: `python tests/programs/NAME.py`."""

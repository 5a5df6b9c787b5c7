"""Makes two clients, reads a session that doesn't exist, and prints who handles what is logged."""

from __future__ import annotations

import logging

from qsessions import NotFound, SessionClient

if __name__ == "__main__":
    with SessionClient() as client, SessionClient():
        try:
            client.get("s-1")
        except NotFound:
            logger = logging.getLogger("qsessions")
            print(
                len(logger.handlers), logger.level, len(logging.root.handlers), logging.root.level
            )

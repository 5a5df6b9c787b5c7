"""Has the test run a command in its place. Arguments: the test's socket, and the command's own."""

from __future__ import annotations

import json
import socket
import sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(json.dumps(sys.argv[2:]).encode() + b"\n")
    with connection.makefile() as answer:
        code, out, err = json.load(answer)
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)

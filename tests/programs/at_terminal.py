"""Makes its standard input the terminal of a session of its own, as a login does, and becomes
another program. Arguments: that program's.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios

if __name__ == "__main__":
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - it is what the test asks for

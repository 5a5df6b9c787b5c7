"""Runs a command line as if a library weren't installed. Arguments: the library, the line."""

from __future__ import annotations

import sys

from qsessions.cli import main

if __name__ == "__main__":
    missing = sys.argv[1]

    class Missing:
        """Finds no library of that name."""

        def find_spec(self, name: str, *_: object) -> None:
            """Raise the error of what isn't there."""
            if name.partition(".")[0] == missing:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Missing())
    sys.exit(main(sys.argv[2:]))

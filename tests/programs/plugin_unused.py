"""A test that uses nothing of the plugin, but looks at what has been imported."""

from __future__ import annotations

import sys


def test_modules() -> None:
    """Of ours only the plugin's module and its packages are there, and nothing that they could need."""
    assert {name for name in sys.modules if name.partition(".")[0] == "qsessions"} == {
        "qsessions",
        "qsessions._version",
        "qsessions.testing",
        "qsessions.testing.plugin",
    }
    assert not {"aiohttp", "attrs", "cattrs", "jwt", "yarl"} & set(sys.modules)

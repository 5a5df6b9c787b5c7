"""For your tests: the fixtures of pytest (`plugin`), the emulator in a thread (`threaded`), clients
of it (`clients`) and a clock in a test's hand.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qsessions.testing.manual_clock import ManualClock
    from qsessions.testing.threaded import ThreadedEmulator

__all__ = ["ManualClock", "ThreadedEmulator"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: pytest imports this package in every run."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = {"ManualClock": "manual_clock", "ThreadedEmulator": "threaded"}[name]
    return getattr(import_module(f"{__name__}.{module}"), name)

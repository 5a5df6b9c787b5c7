"""The machine that a benchmark runs on: its cores, and what to print about it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "qsessions",
    "aiohttp",
    "attrs",
    "cattrs",
    "yarl",
    "httpx",
    "requests",
    "urllib3",
    "qiskit-ibm-runtime",
)


def cores() -> list[int]:
    """Return the cores that this process may use; empty where the platform doesn't say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def pinned_cores() -> tuple[int, int] | None:
    """Return a core for the client and one for the stub, where the machine has two to choose."""
    found = cores()
    return (found[0], found[1]) if len(found) > 1 else None


def pin(core: int | None) -> None:
    """Keep this process on one core."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


@contextmanager
def unpinned(cores: Sequence[int]) -> Iterator[None]:
    """Let this thread, and those that it starts, use several cores for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def busy_cores() -> float | None:
    """Return how many processes wanted a core over the last minute."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def versions() -> dict[str, str]:
    """Return the version of each package that takes part and is installed."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def facts() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "optimized": sys.flags.optimize > 0,
        "load": busy_cores(),
        "versions": versions(),
    }

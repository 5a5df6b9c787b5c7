"""What starting costs: imports and the command's help, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from attrs import evolve

from benchmarks import peers
from benchmarks.rounds import Variant
from benchmarks.rows import Bench, at_most

EMPTY = "python"
AIOHTTP = "import aiohttp"
PACKAGE = "import qsessions"
CLIENT = "from qsessions import AsyncSessionClient"
HELP = "qsessions --help"
OFFICIAL = "import qiskit_ibm_runtime"


def starting(name: str, folder: str, *command: str) -> Variant:
    """Return a variant that runs a command, in a folder with nothing to import."""
    # As pip installs them, the modules are compiled already, whatever the environment says.
    environment = dict(os.environ, PYTHONPYCACHEPREFIX=str(Path(folder) / "compiled"))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def repeat(calls: int) -> None:
        for _ in range(calls):
            subprocess.run(  # noqa: S603
                command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
            )

    return Variant(name, repeat)


def run(bench: Bench) -> None:
    """Measure it."""
    with tempfile.TemporaryDirectory() as folder:
        statements = {EMPTY: "pass"} | {name: name for name in (AIOHTTP, PACKAGE, CLIENT)}
        if peers.library(bench, "qiskit_ibm_runtime", "qiskit-ibm-runtime") is not None:
            statements[OFFICIAL] = OFFICIAL
        variants = [
            starting(name, folder, sys.executable, "-c", code) for name, code in statements.items()
        ]
        script = Path(sysconfig.get_path("scripts")) / "qsessions"
        if script.exists():
            variants.append(starting(HELP, folder, str(script), "--help"))
        else:
            bench.leave_out(HELP, "the command is not installed")
        # A process takes longer than a round; each round starts one.
        rounds = 1 if bench.quick else max(5, bench.effort.rounds // 3)
        effort = evolve(bench.effort, rounds=rounds, seconds=0.0)
        measured = bench.measure("start", variants, effort)
    add = bench.add
    added = measured.added_ratio(PACKAGE, AIOHTTP, EMPTY, "wall")
    figure = "`import qsessions`, time added, against `import aiohttp`"
    add("import", figure, added, at_most(0.05, 0.03), decimals=3)
    added = measured.added_ratio(CLIENT, AIOHTTP, EMPTY, "wall")
    figure = "`from qsessions import AsyncSessionClient`, the same"
    add("import-client", figure, added, at_most(1.18, 1.10))
    if OFFICIAL in measured:
        added = measured.added_ratio(OFFICIAL, AIOHTTP, EMPTY, "wall")
        add("import-official", "`import qiskit_ibm_runtime`, the same", added, decimals=1)
    if HELP in measured:
        figure = '`qsessions --help`, wall against `python -c "import aiohttp"`'
        add("help", figure, measured.ratio(HELP, AIOHTTP, "wall"), at_most(0.8, 0.5))

"""What examples/containers says, read as far as that goes without a container engine."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.pages import ROOT

FOLDER = ROOT / "examples" / "containers"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
EMULATOR, PROGRAM = COMPOSE["services"]["emulator"], COMPOSE["services"]["program"]
PORT = "9000"
# Where the image has its commands.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments, each on one line."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n *", "", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    return [(name, arguments) for name, _, arguments in (line.partition(" ") for line in lines)]


def command(instruction: str) -> list[str]:
    """Return the command of an instruction in its exec form, JSON, which needs no shell."""
    (arguments,) = [arguments for name, arguments in instructions() if name == instruction]
    words: list[str] = json.loads(arguments[arguments.index("[") :])
    return words


def environment(service: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a service; a variable without a value has that of Compose's own."""
    return {
        name: given[name] if value is None else str(value)
        for name, value in service["environment"].items()
    }

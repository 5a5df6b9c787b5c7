"""A real kernel, spoken to as a notebook does it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field
from jupyter_client.manager import KernelManager

# Seconds that a kernel on a busy machine may take for a message.
_PATIENCE = 60


@define
class Cell:
    """What came of a cell.

    Attributes:
        status: "ok" or "error"; empty while it runs.
        error: The error's class and its message.
        printed: What it wrote.
        shown: What it showed: each value's forms by their media types.
        result: The same of its last value.
        traceback: The error's, as a terminal shows it.
        page: What it showed beside the notebook, as help is.
    """

    status: str = ""
    error: tuple[str, str] | None = None
    printed: str = ""
    shown: list[dict[str, str]] = field(factory=list)
    result: dict[str, str] = field(factory=dict)
    traceback: str = ""
    page: str = ""


class Kernel:
    """A kernel and what a notebook does with it; from `running`."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._client: Any = None
        self._request = ""
        self._cell = Cell()

    def connect(self) -> None:
        """Wait until the kernel is ready."""
        self.disconnect()
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=_PATIENCE)

    def disconnect(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.stop_channels()

    def run(self, code: str) -> Cell:
        """Run a cell to its end."""
        self.begin(code)
        return self.end()

    def begin(self, code: str) -> None:
        """Begin to run a cell."""
        self._cell = Cell()
        self._request = self._client.execute(code, allow_stdin=False)

    def until_printed(self, text: str) -> None:
        """Wait until the cell has written a text."""
        while text not in self._cell.printed:
            assert self._read(), f"the cell ended and wrote {self._cell.printed!r}: {self._cell}"

    def end(self) -> Cell:
        """Wait for the end of the cell, and return what came of it."""
        while self._read():
            pass
        # A kernel that starts slowly is asked for its state again, and its answers come late.
        reply = self._client.get_shell_msg(timeout=_PATIENCE)
        while reply["parent_header"].get("msg_id") != self._request:
            reply = self._client.get_shell_msg(timeout=_PATIENCE)
        self._cell.status = reply["content"]["status"]
        for payload in reply["content"].get("payload", ()):
            self._cell.page += payload["data"]["text/plain"]
        return self._cell

    def interrupt(self) -> None:
        """Do what the button does."""
        self._manager.interrupt_kernel()

    def kill(self) -> None:
        """Kill the process, whatever it does, and start another one in its place."""
        # The manager's own way interrupts the cell first.
        os.kill(self._manager.provisioner.pid, signal.SIGKILL)
        self._manager.restart_kernel(now=True)
        self.connect()

    def restart(self) -> None:
        """Do what the button does while no cell runs."""
        self._manager.restart_kernel()
        self.connect()

    def _read(self) -> bool:
        """Note one message; return whether the cell goes on."""
        message = self._client.get_iopub_msg(timeout=_PATIENCE)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != self._request:
            return True
        if kind == "stream":
            self._cell.printed += content["text"]
        elif kind == "display_data":
            self._cell.shown.append(content["data"])
        elif kind == "execute_result":
            self._cell.result = content["data"]
        elif kind == "error":
            self._cell.error = content["ename"], content["evalue"]
            self._cell.traceback = "\n".join(content["traceback"])
        return not (kind == "status" and content["execution_state"] == "idle")


@contextmanager
def running(folder: Path, env: Mapping[str, str]) -> Iterator[Kernel]:
    """Run a kernel with an empty home folder and further variables in its environment."""
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
    # It has nothing to measure.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    manager.start_kernel(env=plain | dict(env) | {"HOME": str(folder)})
    kernel = Kernel(manager)
    try:
        kernel.connect()
        yield kernel
    finally:
        kernel.disconnect()
        manager.shutdown_kernel(now=True)

"""A worker process as the emulator sees it."""

import contextlib
import json
import os
import subprocess
import sys
from typing import IO, cast

from qsessions.emulator.programs.pubs import ProgramError
from qsessions.emulator.programs.worker import ANSWER, QUESTION, READY, RESULTS
from qsessions.emulator.service.errors import INTERNAL_ERROR, PROGRAM_TOO_LARGE

# Isolated, Python looks for modules in its own folders only. The process has those of this one.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from qsessions.emulator.programs.worker import main; main(sys.argv[1])"
)
# What finds libraries. Nothing else of the environment is passed on: it holds credentials.
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
_SET = {
    "HOME": os.devnull,
    "USERPROFILE": os.devnull,
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "QISKIT_PARALLEL": "FALSE",
}


class Worker:
    """A process that runs one program at a time. Its methods block; `kill` may come in between.

    Args:
        module: The module whose `run` it calls.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False

    def start(self) -> None:
        """Start the process, and wait until it has imported what it needs.

        Raises:
            ProgramError: It can't be started, or it ended.
        """
        paths = [path for path in sys.path if os.path.isabs(path)]  # noqa: PTH117 - they are text
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-I", "-B", "-c", _START, self._module, *paths],
                env=kept | _SET,
                cwd=os.path.abspath(os.sep),  # noqa: PTH100 - no file is meant
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            reason = f"no process can be started for it: {error.strerror}"
            raise ProgramError(reason, INTERNAL_ERROR) from None
        if self._is_killed:
            self._process.kill()
        kind, content = self._read()
        if kind != READY:
            raise ProgramError(*json.loads(content))

    def run(self, body: bytes, seed: int) -> bytes:
        """Return what a program answers.

        Raises:
            ProgramError: The program failed, or the process ended.
        """
        process = cast("subprocess.Popen[bytes]", self._process)
        pipe = cast("IO[bytes]", process.stdin)
        try:
            pipe.write(QUESTION.pack(seed, len(body)) + body)
            pipe.flush()
        except OSError:
            raise _ended(process) from None
        kind, content = self._read()
        if kind == RESULTS:
            return content
        raise ProgramError(*json.loads(content))

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._is_killed = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process, and forget it. No other method may be under way."""
        self.kill()
        if self._process is not None:
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                # What wasn't written has nobody left to read it.
                with contextlib.suppress(OSError):
                    cast("IO[bytes]", pipe).close()

    def _read(self) -> tuple[bytes, bytes]:
        process = cast("subprocess.Popen[bytes]", self._process)
        pipe = cast("IO[bytes]", process.stdout)
        header = pipe.read(ANSWER.size)
        if len(header) < ANSWER.size:
            raise _ended(process)
        kind, length = ANSWER.unpack(header)
        content = pipe.read(length)
        if len(content) < length:
            raise _ended(process)
        return kind, content


def _ended(process: "subprocess.Popen[bytes]") -> ProgramError:
    status = process.wait()
    reason = f"its process ended with status {status}, as it does where memory is short"
    return ProgramError(reason, PROGRAM_TOO_LARGE)

"""Runs the programs of jobs in the order in which they were submitted, and keeps their results."""

import asyncio
import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from zlib import crc32

import attrs

from qsessions.emulator.programs import seeded
from qsessions.emulator.programs.form import primitive_result, results_shape
from qsessions.emulator.programs.process import Worker
from qsessions.emulator.programs.pubs import LONGEST_REASON, ProgramError
from qsessions.emulator.service.errors import (
    JOB_TOO_LONG,
    NOT_AUTHORISED,
    PROGRAM_FAILED,
    ServiceError,
)

T = TypeVar("T")

_HAS_QISKIT = importlib.util.find_spec("qiskit") is not None
SIMULATION = "qsessions.emulator.programs.simulation" if _HAS_QISKIT else None
"""The module that runs circuits with Qiskit, if it is installed."""

QISKIT_VERSION = importlib.metadata.version("qiskit") if _HAS_QISKIT else None
"""The version of Qiskit, if it is installed."""

_PROGRAM_SECONDS = 30.0
_START_SECONDS = 60.0
_RESULT_SECONDS = 60.0


@attrs.frozen
class _Program:
    body: bytes
    seed: int
    fail: Callable[[str, int], None]


class ProgramRunner:
    """The programs of all jobs. All times are real seconds.

    One worker process runs them, which is started for the first one and replaced after one that
    took too long or too much.

    Args:
        module: The module whose `run` the worker calls. Without one there is no worker, and results
            are random.
        allow_remote: Whether circuits from other machines are run.

    Attributes:
        finished: How many have ended.
    """

    def __init__(self, module: str | None, *, allow_remote: bool = False) -> None:
        self.finished = 0
        self._module = module
        self._seconds = _PROGRAM_SECONDS
        self._allow_remote = allow_remote
        self._waiting: dict[str, _Program] = {}
        self._results: dict[str, bytes] = {}
        self._shapes: dict[str, str] = {}
        self._worker: Worker | None = None
        self._work: asyncio.Task[None] | None = None
        self._finished = asyncio.Condition()
        self._is_started = False

    def check_origin(self, *, is_local: bool) -> None:
        """Check that circuits from here, or from another machine, may run.

        Raises:
            ServiceError: They may not (403).
        """
        if self._module is not None and not (is_local or self._allow_remote):
            raise ServiceError(
                403,
                NOT_AUTHORISED,
                "The emulator doesn't run circuits from other machines.",
                "Start it with --allow-remote-circuits if all who can reach it may use its CPU.",
            )

    def start(self) -> None:
        """Run what is waiting, and what will be submitted, on this event loop."""
        self._finished = asyncio.Condition()
        self._is_started = True
        self._wake()

    async def stop(self) -> None:
        """End the worker. The program under way, and those that wait, run after the next start."""
        self._is_started = False
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
            await asyncio.wait({work})
        await self._end_worker()

    def submit(self, job_id: str, body: bytes, fail: Callable[[str, int], None]) -> None:
        """Put a job's program at the end of the line.

        Args:
            job_id: The job's id, which seeds what is random.
            body: The body of its request.
            fail: Called with the reason and the code if it fails.
        """
        self._waiting[job_id] = _Program(body, crc32(job_id.encode()), fail)
        self._wake()

    def forget(self, job_id: str) -> None:
        """Drop a job's results. A program that is still to run doesn't."""
        self._waiting.pop(job_id, None)
        self._results.pop(job_id, None)
        self._shapes.pop(job_id, None)

    def shape(self, job_id: str) -> str:
        """Return in words what the results of a sampler or an estimator hold."""
        if job_id in self._waiting:
            return "being computed"
        return self._shapes.get(job_id, "no circuits")

    async def results(self, job_id: str, *, once: bool = False) -> bytes | None:
        """Wait for a job's results, up to a minute; None if there are none by then.

        A job that was submitted without a program has run no circuits, and has a result of none.
        With `once` they are empty from then on.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RESULT_SECONDS), self._finished:
                await self._finished.wait_for(lambda: job_id not in self._waiting)
        if job_id in self._waiting:
            return None
        results = self._results.get(job_id)
        if results is None:
            results = primitive_result([], "none")
        if once:
            self._results[job_id] = b""
        return results

    def _wake(self) -> None:
        if self._is_started and self._waiting and self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._run_all())

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                job_id, program = next(iter(self._waiting.items()))
                outcome = await self._outcome(program)
                if self._waiting.pop(job_id, None) is None:
                    pass  # its job was deleted meanwhile
                elif isinstance(outcome, ProgramError):
                    program.fail(outcome.reason, outcome.code)
                else:
                    self._results[job_id], self._shapes[job_id] = outcome
                self.finished += 1
                async with self._finished:
                    self._finished.notify_all()
        finally:
            self._work = None

    async def _outcome(self, program: _Program) -> tuple[bytes, str] | ProgramError:
        """Return the program's results and their shape in words, or why there are none."""
        try:
            if self._module is None:
                results = await asyncio.to_thread(seeded.run, program.body, program.seed)
            else:
                results = await self._in_worker(self._module, program)
            return results, await asyncio.to_thread(results_shape, results)
        except ProgramError as error:
            if error.code != PROGRAM_FAILED:
                # The process may be no more, or still be at it.
                await self._end_worker()
            return error
        except Exception as error:  # noqa: BLE001 - a request can be wrong in any way
            return ProgramError(f"{type(error).__name__}: {error}"[:LONGEST_REASON])

    async def _in_worker(self, module: str, program: _Program) -> bytes:
        if self._worker is None:
            worker = self._worker = Worker(module)
            await self._bounded(worker, worker.start, _START_SECONDS)
        worker = self._worker
        call = partial(worker.run, program.body, program.seed)
        return await self._bounded(worker, call, self._seconds)

    async def _bounded(self, worker: Worker, call: Callable[[], T], seconds: float) -> T:
        """Return what a call of the worker returns, in a thread. When it must end, kill the worker.

        Raises:
            ProgramError: The call failed, or took too long.
        """
        future = asyncio.get_running_loop().run_in_executor(None, call)
        try:
            done, _ = await asyncio.wait({future}, timeout=seconds)
            if done:
                return future.result()
        finally:
            if not future.done():
                worker.kill()
                await asyncio.wait({future})
                future.exception()  # it says only that the process is dead
        raise ProgramError(f"the program took longer than {seconds:g} s", JOB_TOO_LONG)

    async def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await asyncio.to_thread(worker.close)

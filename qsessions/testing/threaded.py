"""The emulator on an event loop in a thread of its own, for tests and scripts on any event loop or on none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future
from datetime import timedelta
from queue import SimpleQueue
from typing import Any, Self, TypeVar

from qsessions.emulator import Emulator, FaultPlan, ReceivedRequest
from qsessions.emulator.service.validation import Plan
from qsessions.emulator.service.values import Event, Job, Session

T = TypeVar("T")


class ThreadedEmulator:
    """An `Emulator` that runs in a thread of its own, so that nothing of it is awaited: `emulator.advance("30m")`.

    Use it as `with ThreadedEmulator(Emulator()) as emulator:`. It has what `Emulator` has, with the same results and errors, for any
    thread. A call waits for the emulator, a moment, also where an event loop runs.

    Raises RuntimeError for use outside `with`.

    faults: the plan of what goes wrong, which may be changed at any time.
    """

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator
        self.faults: FaultPlan = emulator.faults
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event
        self._thread: threading.Thread

    def __repr__(self) -> str:
        return f"<Threaded{repr(self._emulator)[1:]}"

    def __enter__(self) -> Self:
        """Start the thread and listen. Raises OSError if the address or an event loop can't be had, RuntimeError inside `with` already."""
        if self._loop is not None:
            raise RuntimeError("the emulator's thread runs already")
        begun: SimpleQueue[asyncio.AbstractEventLoop] = SimpleQueue()
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        # Made here, where somebody hears of it if there can be none.
        runner.get_loop()

        def live() -> None:
            with runner:
                runner.run(self._live(begun))

        self._thread = threading.Thread(target=live, name="qsessions-emulator", daemon=True)
        self._thread.start()
        self._loop = begun.get()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening and end the thread."""
        loop = self._running()
        try:
            self.stop()
        finally:
            self._loop = None
            loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    async def _live(self, begun: SimpleQueue[asyncio.AbstractEventLoop]) -> None:
        self._ended = asyncio.Event()
        begun.put(asyncio.get_running_loop())
        await self._ended.wait()

    def start(self) -> None:
        """Listen again, after `stop`, on the same port. Raises RuntimeError if it already does."""
        self._run(self._emulator.start)

    def stop(self) -> None:
        """Stop listening and drop every connection, as in an outage; does nothing if it isn't listening. State is kept."""
        self._run(self._emulator.stop)

    @property
    def url(self) -> str:
        """The base URL, the part before `/v1`."""
        return self._emulator.url

    @property
    def iam_url(self) -> str:
        """What a client appends `/identity/token` to."""
        return self._emulator.iam_url

    @property
    def api_key(self) -> str:
        """The one API key that the token endpoint and the `apikey` scheme take."""
        return self._emulator.api_key

    @property
    def backend_token(self) -> str:
        """The one value that the Backend-Authentication header may have."""
        return self._emulator.backend_token

    @property
    def service_token(self) -> str:
        """The one value that the external-service-token header may have."""
        return self._emulator.service_token

    @property
    def crn(self) -> str:
        """The first instance."""
        return self._emulator.crn

    @property
    def crns(self) -> tuple[str, ...]:
        """The instances; `crn` is the first of them."""
        return self._ask(lambda emulator: emulator.crns)

    def env(self) -> dict[str, str]:
        """The environment variables that lead clients to this emulator. Holds the API key; see `Emulator.env`."""
        return self._ask(lambda emulator: emulator.env())

    def add_instance(
        self, *, plan: Plan = "paid", partner: bool = False, interactive_ttl: int | None = None
    ) -> str:
        """Open another service instance; gives its CRN. See `Emulator.add_instance`."""
        return self._ask(
            lambda emulator: emulator.add_instance(
                plan=plan, partner=partner, interactive_ttl=interactive_ttl
            )
        )

    def delete_instance(self, crn: str) -> None:
        """Serve an instance no more. See `Emulator.delete_instance`."""
        self._ask(lambda emulator: emulator.delete_instance(crn))

    def now(self) -> float:
        """The service's time in unix seconds."""
        return self._ask(lambda emulator: emulator.now())

    def advance(self, duration: float | str | timedelta) -> float:
        """Let time pass at once; gives the time that it then is, in unix seconds. See `Emulator.advance`.

        duration: seconds, a `timedelta` or text such as "2h 30m".
        """
        return self._run(lambda: self._emulator.advance(duration))

    @property
    def sessions(self) -> dict[str, Session]:
        """Every session of every instance as it stands now, by id, oldest first; a copy."""
        return self._ask(lambda emulator: emulator.sessions)

    @property
    def open_sessions(self) -> list[Session]:
        """The sessions of every instance that are not closed, oldest first."""
        return self._ask(lambda emulator: emulator.open_sessions)

    @property
    def jobs(self) -> dict[str, Job]:
        """Every job of every instance as it stands now, by id, oldest first; a copy."""
        return self._ask(lambda emulator: emulator.jobs)

    @property
    def events(self) -> Sequence[Event]:
        """All that has happened to sessions and jobs of every instance until now, oldest first."""
        return self._ask(lambda emulator: emulator.events)

    def assert_no_open_sessions(self, ignoring: Collection[str] = ()) -> None:
        """Check that every session is closed. Raises AssertionError, which tells the story of each that is not.

        ignoring: the ids of sessions that may be open.
        """
        self._ask(lambda emulator: emulator.assert_no_open_sessions(ignoring))

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The last 100,000 requests in the order of their answers, without secrets; a copy."""
        return self._ask(lambda emulator: emulator.requests)

    def submit_job(
        self,
        session_id: str | None = None,
        *,
        seconds: float = 1.0,
        backend: str | None = None,
        program_id: str = "sampler",
        crn: str | None = None,
    ) -> str:
        """Queue a job as another client would, without a request; returns its id. See `Emulator.submit_job`."""
        return self._ask(
            lambda emulator: emulator.submit_job(
                session_id, seconds=seconds, backend=backend, program_id=program_id, crn=crn
            )
        )

    def revoke_tokens(self) -> None:
        """Refuse every access token issued so far (401, code 1201). The API key stays good."""
        self._ask(lambda emulator: emulator.revoke_tokens())

    def _ask(self, question: Callable[[Emulator], T]) -> T:
        async def answer() -> T:
            return question(self._emulator)

        return self._run(answer)

    def _run(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        loop = self._running()
        # A queue, since waiting on a Future would pass for blocking with those who look for it in a test's event loop; it is bounded here.
        answered: SimpleQueue[Future[T]] = SimpleQueue()
        asyncio.run_coroutine_threadsafe(function(), loop).add_done_callback(answered.put)
        return answered.get().result()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError(
                "the emulator's thread isn't running: use the emulator inside `with`"
            )
        return self._loop

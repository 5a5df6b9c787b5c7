"""The emulator as an object that you start and stop."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from heapq import merge
from operator import attrgetter
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Self, TypeVar

import attrs
from aiohttp import web

from qsessions.emulator.faults import Fault, FaultPlan
from qsessions.emulator.http.admin import HOST, Admin
from qsessions.emulator.http.app import BASE_PATH, Service
from qsessions.emulator.http.credentials import Gate, Secrets
from qsessions.emulator.http.iam import TokenOffice
from qsessions.emulator.http.middleware import Front
from qsessions.emulator.http.recording import ReceivedRequest, Recorder
from qsessions.emulator.page.app import Page
from qsessions.emulator.page.board import Board
from qsessions.emulator.page.stories import stories
from qsessions.emulator.service.clock import ServiceClock, read_duration
from qsessions.emulator.service.errors import invalid
from qsessions.emulator.service.instances import Instance, invented_account, invented_crn
from qsessions.emulator.service.state import Machine
from qsessions.emulator.service.validation import Plan, Terms, is_duration
from qsessions.emulator.service.values import Event, Job, Session

_Workload = TypeVar("_Workload", Session, Job)

DEFAULT_BACKENDS = ("ibm_fez", "ibm_torino", "ibm_marrakesh")
_USER_ID = "IBMid-emulated"
_SHUTDOWN_SECONDS = 0.1
_LARGEST_BODY = 50 * 2**20  # the service's, for jobs
_KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

# aiohttp logs a request that is no HTTP with its raw text, which may hold a secret. Its 400 must be enough.
_wire_log = logging.getLogger("qsessions.emulator.wire")
_wire_log.setLevel(logging.CRITICAL + 1)


class Emulator:
    """The sessions service and its token endpoint, served from this process.

    Start it with `async with Emulator() as emulator:` or with `start` and `stop`; then point a client at
    `url` and `iam_url` with `api_key` and `crn` (`env` has them as environment variables). It belongs to the
    event loop that started it: from another thread, call in through that loop. Everything is kept in memory
    and survives a stop, and a stopped emulator starts again on the same port: so an outage can be played. A browser
    on this machine that opens `iam_url` sees all of it live.

    host: where to listen. The default is reachable from this machine only; the emulator speaks plain HTTP and
        its credentials protect nothing, so leave it there unless the network is yours.
    port: 0 takes a free one.
    clock: unix seconds; whatever it says is the time of the service. The default starts at the wall clock and
        goes on monotonically.
    speed: seconds of the service in one real second, without a `clock`; at 0 time stands still until `advance`.
    plan, partner, interactive_ttl: the terms of the first instance, as `add_instance` has them.
    token_seconds: how long an access token lives, in whole seconds.
    queue_seconds: how long every job waits before it may start.
    seed: makes ids, keys and tokens the same in every run. The keys are then no secret.
    backends: the names of the backends; the first serves jobs that name none.
    faults: what goes wrong from the start; `faults` is the plan that can be changed at any time.

    Raises ValueError for an argument out of range.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] | None = None,
        speed: float = 1.0,
        plan: Plan = "paid",
        partner: bool = False,
        interactive_ttl: int | None = None,
        token_seconds: int = 3600,
        queue_seconds: float = 0.0,
        seed: int | None = None,
        backends: Sequence[str] = DEFAULT_BACKENDS,
        faults: Sequence[Fault] = (),
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError("port must be from 0 to 65535")
        if not host:
            # It would be every address, which is to be said.
            raise ValueError("host must not be empty")
        random = SystemRandom() if seed is None else Random(seed)  # noqa: S311 - a seed asks for no secrets
        self.faults = FaultPlan(faults)
        self._host = host
        self._port = port
        self._secrets = Secrets(
            api_key=_key(random, "emulated-"),
            backend_token=_key(random, "emulated-backend-"),
            service_token=_key(random, "emulated-service-"),
        )
        self._random = random
        self._backends = tuple(backends)
        self._queue_seconds = queue_seconds
        self._account = invented_account(random)
        self._instances: dict[str, Instance] = {}
        self._served: dict[str, Instance] = {}
        self._clock = ServiceClock(speed=speed, clock=clock)
        self._tokens = TokenOffice(
            api_key=self._secrets.api_key,
            account=self._account,
            user_id=_USER_ID,
            life_seconds=token_seconds,
            random=random,
        )
        self._recorder = Recorder(attrs.asdict(self._secrets))
        self.crn = self.add_instance(plan=plan, partner=partner, interactive_ttl=interactive_ttl)
        self._runner: web.AppRunner | None = None

    def __repr__(self) -> str:
        state = "stopped" if self._runner is None else "running"
        return f"<Emulator {state} at {self._host}:{self._port}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    if not TYPE_CHECKING:
        # Python's own error doesn't say what to do. It looks for both methods before it calls one.
        def __enter__(self):
            raise TypeError(
                "Emulator is entered with `async with`; for a plain `with` there is "
                "`with ThreadedEmulator(Emulator())`, from qsessions.testing.threaded"
            )

        __exit__ = __aexit__

    def add_instance(
        self, *, plan: Plan = "paid", partner: bool = False, interactive_ttl: int | None = None
    ) -> str:
        """Open another service instance, at any time; gives its CRN.

        It has the same keys and backends but sees no session, job or workload of another.

        plan: "open" can't create dedicated sessions, and its `max_ttl` is at most 900 s; "paid" allows 8 h.
        partner: whether `interactive_ttl` must and `active_ttl` may be set; others can't set them.
        interactive_ttl: the idle limit of others' sessions, in whole seconds; by default the plan's, 60 or 2 (open).
        Raises ValueError for terms that make no sense.
        """
        terms = Terms(plan=plan, partner=partner, interactive_ttl=interactive_ttl)
        crn = invented_crn(self._random, self._account)
        machine = Machine(
            random=self._random,
            backends=self._backends,
            queue_seconds=self._queue_seconds,
            instance=crn,
        )
        self._instances[crn] = self._served[crn] = Instance(crn, terms, machine)
        return crn

    def delete_instance(self, crn: str) -> None:
        """Serve an instance no more: requests for it get a 404 with code 1279. What it holds can still be looked at here.

        Raises ValueError for a CRN that names none.
        """
        if self._served.pop(crn, None) is None:
            raise ValueError("crn names no instance that is served: take it from `crns`")

    @property
    def crns(self) -> tuple[str, ...]:
        """The instances, deleted ones too; `crn` is the first of them."""
        return tuple(self._instances)

    def _application(self) -> web.Application:
        gate = Gate(secrets=self._secrets, instances=self._served, tokens=self._tokens)
        front = Front(
            clock=self._clock,
            recorder=self._recorder,
            faults=self.faults,
            tokens=self._tokens,
            random=self._random,
        )
        app = web.Application(middlewares=[front.answer], client_max_size=_LARGEST_BODY)
        app[HOST] = self._host
        Service(
            instances=self._served,
            tokens=self._tokens,
            gate=gate,
            clock=self._clock,
            user_id=_USER_ID,
        ).add_routes(app.router)
        Admin(
            instances=self._instances,
            clock=self._clock,
            recorder=self._recorder,
            faults=self.faults,
            user_id=_USER_ID,
        ).add_routes(app.router)
        Page(Board(instances=self._instances, clock=self._clock, recorder=self._recorder)).add_to(
            app
        )
        return app

    async def start(self) -> None:
        """Listen. Raises RuntimeError if it already does, OSError if the address can't be had."""
        if self._runner is not None:
            raise RuntimeError("the emulator is running already")
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=_wire_log,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port).start()
        except BaseException:
            await self.stop()
            raise
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening and drop every connection; does nothing if it isn't running. State is kept."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @property
    def url(self) -> str:
        """The base URL, the part before `/v1`. Raises RuntimeError before the first start if `port` is 0."""
        return f"{self.iam_url}{BASE_PATH}"

    @property
    def iam_url(self) -> str:
        """What a client appends `/identity/token` to. Raises RuntimeError as `url` does."""
        if not self._port:
            raise RuntimeError("the emulator has no port yet: start it first")
        # Listening everywhere is no address that a client could call.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self._port}"

    @property
    def api_key(self) -> str:
        """The one API key that the token endpoint and the `apikey` scheme take."""
        return self._secrets.api_key

    @property
    def backend_token(self) -> str:
        """The one value that the Backend-Authentication header may have."""
        return self._secrets.backend_token

    @property
    def service_token(self) -> str:
        """The one value that the external-service-token header may have."""
        return self._secrets.service_token

    def env(self) -> dict[str, str]:
        """The environment variables that lead clients to this emulator. Holds the API key.

        The CRNs of further instances are QISKIT_IBM_INSTANCE_2 and so on.
        """
        further = {
            f"QISKIT_IBM_INSTANCE_{number}": crn for number, crn in enumerate(self.crns[1:], 2)
        }
        return {
            "QSESSIONS_BASE_URL": self.url,
            "IAM_URL": self.iam_url,
            "QISKIT_IBM_TOKEN": self.api_key,
            "QISKIT_IBM_INSTANCE": self.crn,
            **further,
        }

    def now(self) -> float:
        """The service's time in unix seconds. It never runs backwards, even if the clock does."""
        return self._clock.now()

    async def advance(self, duration: float | str | timedelta) -> float:
        """Let time pass at once, at any `speed`; gives the time that it then is, in unix seconds.

        duration: seconds, a `timedelta` or text such as "2h 30m".
        All that falls due on the way happens at its exact time. Latency faults wait in real time.
        Raises ValueError for what is no duration or leads past the year 9999, RuntimeError if a `clock` was passed: then move that.
        """
        now = self._clock.step(read_duration(duration))
        await asyncio.sleep(0)  # what waits on this loop sees the new time first
        return now

    @property
    def sessions(self) -> dict[str, Session]:
        """Every session of every instance as it stands now, by id, oldest first; a copy."""
        now = self.now()
        return _merged([list(machine.sessions(now).values()) for machine in self._machines()])

    @property
    def open_sessions(self) -> list[Session]:
        """The sessions of every instance that are not closed, oldest first."""
        return [session for session in self.sessions.values() if session.state != "closed"]

    @property
    def jobs(self) -> dict[str, Job]:
        """Every job of every instance as it stands now, by id, oldest first; a copy."""
        now = self.now()
        return _merged([machine.jobs(now) for machine in self._machines()])

    @property
    def events(self) -> Sequence[Event]:
        """All that has happened to sessions and jobs of every instance until now, oldest first."""
        now = self.now()
        for machine in self._machines():
            machine.advance(now)
        return tuple(merge(*(machine.events for machine in self._machines()), key=attrgetter("at")))

    def assert_no_open_sessions(self, ignoring: Collection[str] = ()) -> None:
        """Check that every session is closed. Raises AssertionError, which tells the story of each that is not.

        ignoring: the ids of sessions that may be open.
        """
        left = stories(self._instances.values(), self.requests, self.now())
        told = [story for session, story in left if session.id not in ignoring]
        if told:
            count = "1 session was" if len(told) == 1 else f"{len(told)} sessions were"
            raise AssertionError("\n  ".join([f"{count} left open:", *told]))

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The last 100,000 requests, or as many as 128 MiB hold, in the order of their answers, without secrets; a copy."""
        return self._recorder.requests

    def submit_job(
        self,
        session_id: str | None = None,
        *,
        seconds: float = 1.0,
        backend: str | None = None,
        program_id: str = "sampler",
        crn: str | None = None,
    ) -> str:
        """Queue a job as another client would, without a request; returns its id.

        seconds: how long it will run. backend: by default its session's, or the first one. crn: the instance, by
        default the session's, or the first one.
        Raises Refusal where the service would answer with an error.
        """
        if not is_duration(seconds):
            raise invalid("seconds must be finite, 0 or more.")
        job = self._machine_of(session_id, crn).submit_job(
            self.now(),
            program_id=program_id,
            seconds=seconds,
            backend=backend,
            session_id=session_id,
        )
        return job.id

    def revoke_tokens(self) -> None:
        """Refuse every access token issued so far (401, code 1201). The API key stays good."""
        self._tokens.revoke()

    def _machines(self) -> list[Machine]:
        return [instance.machine for instance in self._instances.values()]

    def _machine_of(self, session_id: str | None, crn: str | None) -> Machine:
        if crn is not None and crn not in self._instances:
            raise ValueError("crn names no instance of this emulator: take it from `crns`")
        if crn is None and session_id is not None:
            holder = next(
                (machine for machine in self._machines() if machine.holds(session_id)), None
            )
            return holder or self._instances[self.crn].machine
        return self._instances[crn or self.crn].machine


def _merged(lists: list[list[_Workload]]) -> dict[str, _Workload]:
    return {workload.id: workload for workload in merge(*lists, key=attrgetter("created"))}


def _key(random: Random, prefix: str) -> str:
    return prefix + "".join(random.choices(_KEY_LETTERS, k=44 - len(prefix)))

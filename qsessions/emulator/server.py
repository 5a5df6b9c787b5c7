"""The emulator as an object that you start and stop."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from operator import attrgetter
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Self

from aiohttp import web

from qsessions.emulator.faults import Fault, FaultPlan
from qsessions.emulator.http.access import ACCESS, make_access
from qsessions.emulator.http.admin import AdminRoutes
from qsessions.emulator.http.credentials import Authenticator, checked_secret, new_key
from qsessions.emulator.http.iam import TokenIssuer
from qsessions.emulator.http.leak_report import check_leaks, leak_report
from qsessions.emulator.http.middleware import Middleware
from qsessions.emulator.http.recording import ReceivedRequest, Recorder
from qsessions.emulator.http.service_routes import BASE_PATH, ServiceRoutes
from qsessions.emulator.page.dashboard import Dashboard
from qsessions.emulator.page.live_view import LiveView
from qsessions.emulator.programs.runner import SIMULATION, ProgramRunner
from qsessions.emulator.service.backends import read_backends
from qsessions.emulator.service.clock import ServiceClock, read_duration
from qsessions.emulator.service.errors import invalid
from qsessions.emulator.service.instances import (
    Instance,
    JobRate,
    emulated_account,
    new_account_id,
    new_crn,
)
from qsessions.emulator.service.state import ServiceState
from qsessions.emulator.service.values import Event, Job, Plan, Session, Terms

DEFAULT_BACKENDS = ("ibm_fez", "ibm_torino", "ibm_marrakesh")
_SHUTDOWN_SECONDS = 0.1
_LARGEST_BODY = 50 * 2**20  # the service's, for jobs

# aiohttp logs a malformed request with its raw text, which may hold a secret. Its 400 is enough.
_wire_log = logging.getLogger("qsessions.emulator.wire")
_wire_log.setLevel(logging.CRITICAL + 1)


class Emulator:
    """The sessions service and its token endpoint, served from this process.

    Start it with `async with Emulator() as emulator:` or with `start` and `stop`. Then point a
    client at `url` and `iam_url` with `api_key` and `crn` (`env` has them as environment
    variables). It belongs to the event loop that started it: from another thread, call in through
    that loop. Everything is kept in memory and survives a stop, and a stopped emulator starts again
    on the same port, so that an outage can be simulated. A browser on this machine that opens
    `iam_url` shows all of it live.

    Args:
        host: Where to listen. The default is reachable from this machine only. The emulator speaks
            plain HTTP and its credentials protect nothing, so leave it there unless the network is
            yours.
        port: The port; 0 takes a free one.
        advertised_host: The name or address under which clients elsewhere reach it, which `env`
            then names, such as that of its container.
        clock: Returns the time of the service in unix seconds. The default starts at the wall clock
            and goes on monotonically.
        speed: Seconds of the service in one real second, without a `clock`; at 0 time stands still
            until it is moved, by `advance` or by clients that wait in it; see docs/testing.md.
        plan: The first instance's plan, as in `add_instance`.
        partner: Whether the first instance is a channel partner's, as in `add_instance`.
        interactive_ttl: The first instance's idle limit, as in `add_instance`.
        token_seconds: How long an access token lives, in whole seconds.
        queue_seconds: How long every job waits before it may start.
        api_key: The API key, 8 or more letters, digits, or any of -._~; by default a random one.
        crn: The first instance's CRN. Its account must begin with "emulated", as in the random one
            by default.
        admin_token: What other machines rule the emulator and see its page with, of the same
            form. Without it they can't.
        seed: Makes ids, keys and tokens the same in every run. The keys are then not secret.
        backends: The names of the backends, each with its number of qubits if it isn't to have
            five: "ibm_fez:156". The first serves jobs that name none.
        jobs_per_minute: How many jobs an instance takes a minute: the service takes five, the
            emulator any number.
        faults: The faults from the start; `Emulator.faults` can be changed at any time.
        allow_remote_circuits: Whether circuits from other machines are run, where Qiskit is
            installed. Otherwise such jobs are refused.

    Attributes:
        faults: The plan of faults.
        crn: The CRN of the first instance.
        api_key: The one API key that the token endpoint and the `apikey` scheme take.
        backend_token: The one value that the Backend-Authentication header may have.
        service_token: The one value that the external-service-token header may have.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        advertised_host: str | None = None,
        clock: Callable[[], float] | None = None,
        speed: float = 1.0,
        plan: Plan = "paid",
        partner: bool = False,
        interactive_ttl: int | None = None,
        token_seconds: int = 3600,
        queue_seconds: float = 0.0,
        api_key: str | None = None,
        crn: str | None = None,
        admin_token: str | None = None,
        seed: int | None = None,
        backends: Sequence[str] = DEFAULT_BACKENDS,
        jobs_per_minute: int | None = None,
        faults: Sequence[Fault] = (),
        allow_remote_circuits: bool = False,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError("port must be from 0 to 65535")
        self._access = make_access(host, advertised_host, admin_token)
        # With a seed, nothing is secret.
        random = self._random = SystemRandom() if seed is None else Random(seed)  # noqa: S311
        self.faults = FaultPlan(faults)
        self._host = host
        self._advertised_host = advertised_host
        self._port = port
        self.api_key = (
            new_key(random, "emulated-") if api_key is None else checked_secret(api_key, "api_key")
        )
        self.backend_token = new_key(random, "emulated-backend-")
        self.service_token = new_key(random, "emulated-service-")
        self._backends = read_backends(backends)
        self._jobs_per_minute = jobs_per_minute
        self._queue_seconds = queue_seconds
        self._account = new_account_id(random) if crn is None else emulated_account(crn)
        self._instances: dict[str, Instance] = {}
        self._served: dict[str, Instance] = {}
        self._clock = ServiceClock(speed=speed, clock=clock)
        self._tokens = TokenIssuer(
            api_key=self.api_key, account=self._account, life_seconds=token_seconds, random=random
        )
        self._secrets = {
            "api_key": self.api_key,
            "backend_token": self.backend_token,
            "service_token": self.service_token,
        }
        admin_secrets = {} if admin_token is None else {"admin_token": admin_token}
        self._recorder = Recorder(self._secrets | admin_secrets)
        terms = Terms(plan=plan, partner=partner, interactive_ttl=interactive_ttl)
        self.crn = self._open_instance(
            terms, new_crn(random, self._account) if crn is None else crn
        )
        self._programs = ProgramRunner(SIMULATION, allow_remote=allow_remote_circuits)
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
        self,
        *,
        plan: Plan = "paid",
        partner: bool = False,
        interactive_ttl: int | None = None,
        name: str | None = None,
        region: str = "us-east",
        tags: Collection[str] = (),
    ) -> str:
        """Open another service instance, at any time, and return its CRN.

        It has the same keys and backends but sees no session, job or workload of another.

        Args:
            plan: "open" can't create dedicated sessions, and its `max_ttl` is at most 900 s; "paid"
                allows 8 h.
            partner: Whether a create must have `interactive_ttl` and may have `active_ttl`. Others
                can't set them.
            interactive_ttl: The idle limit of others' sessions, in whole seconds; by default the
                plan's, 60 or 2 (open).
            name: Its name, by which it can be looked up; by default "emulated-1" and so on.
            region: The region in its CRN. It is served at the same address.
            tags: Its tags, by which it can be looked up.

        Raises:
            ValueError: The plan is unknown, the idle limit below a second, or the region none.
        """
        terms = Terms(plan=plan, partner=partner, interactive_ttl=interactive_ttl)
        return self._open_instance(terms, new_crn(self._random, self._account, region), name, tags)

    def _open_instance(
        self, terms: Terms, crn: str, name: str | None = None, tags: Collection[str] = ()
    ) -> str:
        state = ServiceState(
            random=self._random,
            backends=tuple(self._backends),
            queue_seconds=self._queue_seconds,
            instance=crn,
        )
        name = name or f"emulated-{len(self._instances) + 1}"
        self._instances[crn] = self._served[crn] = Instance(
            crn, name, tuple(tags), terms, state, self._backends, JobRate(self._jobs_per_minute)
        )
        return crn

    def delete_instance(self, crn: str) -> None:
        """Stop serving an instance: requests for it get a 404 with code 1279.

        Its sessions, jobs and events stay visible here.

        Raises:
            ValueError: No instance that is served has this CRN.
        """
        if self._served.pop(crn, None) is None:
            raise ValueError("crn names no instance that is served: take it from `crns`")

    @property
    def crns(self) -> tuple[str, ...]:
        """The instances, deleted ones too; `crn` is the first of them."""
        return tuple(self._instances)

    def _application(self) -> web.Application:
        authenticator = Authenticator(**self._secrets, instances=self._served, tokens=self._tokens)
        middleware = Middleware(
            clock=self._clock,
            recorder=self._recorder,
            faults=self.faults,
            tokens=self._tokens,
            random=self._random,
        )
        app = web.Application(middlewares=[middleware.handle], client_max_size=_LARGEST_BODY)
        app[ACCESS] = self._access
        ServiceRoutes(
            instances=self._served,
            tokens=self._tokens,
            authenticator=authenticator,
            programs=self._programs,
            clock=self._clock,
        ).add_routes(app.router)
        instances, clock, recorder = self._instances, self._clock, self._recorder
        AdminRoutes(
            instances=instances, clock=clock, recorder=recorder, faults=self.faults
        ).add_routes(app.router)
        LiveView(
            Dashboard(instances=instances, clock=clock, recorder=recorder, programs=self._programs)
        ).add_to(app)
        return app

    async def start(self) -> None:
        """Start listening.

        Raises:
            RuntimeError: It is listening already.
            OSError: The address can't be used.
        """
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
        self._programs.start()

    async def stop(self) -> None:
        """Stop listening and drop every connection, if it is running. State is kept."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
            await self._programs.stop()

    @property
    def url(self) -> str:
        """The base URL, the part before `/v1`.

        Raises:
            RuntimeError: `port` is 0, and it was never started.
        """
        return f"{self.iam_url}{BASE_PATH}"

    @property
    def iam_url(self) -> str:
        """The URL that a client appends `/identity/token` to.

        Raises:
            RuntimeError: As for `url`.
        """
        # A client can't call the address that means every one.
        return self._address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host))  # noqa: S104

    def _address(self, host: str) -> str:
        if not self._port:
            raise RuntimeError("the emulator has no port yet: start it first")
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    def env(self) -> dict[str, str]:
        """Return the environment variables that point clients to this emulator, API key included.

        They name `advertised_host`, if there is one, in place of `host`. The CRNs of further
        instances are QISKIT_IBM_INSTANCE_2 and so on.
        """
        further = {
            f"QISKIT_IBM_INSTANCE_{number}": crn for number, crn in enumerate(self.crns[1:], 2)
        }
        advertised = self._advertised_host
        address = self.iam_url if advertised is None else self._address(advertised)
        return {
            "QSESSIONS_BASE_URL": f"{address}{BASE_PATH}",
            "IAM_URL": address,
            "QISKIT_IBM_TOKEN": self.api_key,
            "QISKIT_IBM_INSTANCE": self.crn,
            **further,
        }

    def now(self) -> float:
        """Return the service's time in unix seconds. It never runs backwards."""
        return self._clock.now()

    async def advance(self, duration: float | str | timedelta) -> float:
        """Move the time at once, at any `speed`, and return the new time in unix seconds.

        All that falls due on the way happens at its exact time. Latency and drip faults wait in
        real time, but for clients that wait in the emulator's; see docs/testing.md.

        Args:
            duration: Seconds, a `timedelta` or text such as "2h 30m".

        Raises:
            ValueError: It is not a duration, or leads past the year 9999.
            RuntimeError: A `clock` was passed: move that one.
        """
        now = self._clock.step(read_duration(duration))
        await asyncio.sleep(0)  # tasks that wait on this loop see the new time first
        return now

    @property
    def sessions(self) -> dict[str, Session]:
        """Every session of every instance as it stands now, by id, oldest first; a copy."""
        now = self.now()
        sessions = [session for state in self._states() for session in state.sessions(now).values()]
        return {session.id: session for session in sorted(sessions, key=attrgetter("created"))}

    @property
    def open_sessions(self) -> list[Session]:
        """The sessions of every instance that are not closed, oldest first."""
        return [session for session in self.sessions.values() if session.state != "closed"]

    @property
    def jobs(self) -> dict[str, Job]:
        """Every job of every instance as it stands now, by id, oldest first; a copy."""
        now = self.now()
        jobs = [job for state in self._states() for job in state.jobs(now)]
        return {job.id: job for job in sorted(jobs, key=attrgetter("created"))}

    @property
    def events(self) -> Sequence[Event]:
        """All that has happened to sessions and jobs of every instance until now, oldest first."""
        now = self.now()
        for state in self._states():
            state.advance(now)
        events = [event for state in self._states() for event in state.events]
        return tuple(sorted(events, key=attrgetter("at")))

    def assert_no_open_sessions(self, ignoring: Collection[str] = ()) -> None:
        """Check that every session is closed.

        Args:
            ignoring: The ids of sessions that may be open.

        Raises:
            AssertionError: A session is open. The message has the story of each.
        """
        report = leak_report(self._instances.values(), self.requests, self.now())
        check_leaks(report, ignoring)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The last 100,000 requests, or as many as 128 MiB hold, without secrets; a copy.

        They are in the order of their answers.
        """
        return self._recorder.requests

    def submit_job(
        self,
        session_id: str | None = None,
        *,
        seconds: float | str | timedelta = 1.0,
        backend: str | None = None,
        program_id: str = "sampler",
        crn: str | None = None,
    ) -> str:
        """Queue a job as another client would, without a request, and return its id.

        Args:
            session_id: The job's session, if it has one.
            seconds: How long it will run: seconds, a `timedelta` or text such as "2h 30m".
            backend: By default its session's, or the first one.
            program_id: The name of the program. It has no circuits, and so runs none.
            crn: The instance; by default the session's, or the first one.

        Raises:
            ServiceError: The service would answer with an error.
            ValueError: `crn` is not the CRN of an instance.
        """
        try:
            length = read_duration(seconds)
        except ValueError as error:
            raise invalid(f"seconds: {error}.") from None
        if crn is None:
            instances = self._instances.items()
            holders = (crn for crn, instance in instances if instance.state.holds(session_id))
            crn = next(holders, self.crn)
        if crn not in self._instances:
            raise ValueError("crn names no instance of this emulator: take it from `crns`")
        job = self._instances[crn].state.submit_job(
            self.now(),
            program_id=program_id,
            seconds=length,
            backend=backend,
            session_id=session_id,
        )
        return job.id

    def revoke_tokens(self) -> None:
        """Refuse every access token issued so far (401, code 1201). The API key stays good."""
        self._tokens.revoke()

    def _states(self) -> list[ServiceState]:
        return [instance.state for instance in self._instances.values()]

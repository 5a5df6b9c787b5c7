"""The emulator as an object that you start and stop."""

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from random import Random, SystemRandom
from typing import Self

import attrs
from aiohttp import web

from qsessions.emulator.app import BASE_PATH, Service
from qsessions.emulator.checks import Plan, Terms, is_duration
from qsessions.emulator.credentials import Gate, Secrets
from qsessions.emulator.iam import TokenOffice
from qsessions.emulator.recording import ReceivedRequest, Recorder
from qsessions.emulator.refusals import invalid
from qsessions.emulator.state import Machine
from qsessions.emulator.values import Event, Job, Session

DEFAULT_BACKENDS = ("ibm_fez", "ibm_torino", "ibm_marrakesh")
_USER_ID = "IBMid-emulated"
_SHUTDOWN_SECONDS = 0.1
_KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

# aiohttp logs a request that is no HTTP with its raw text, which may hold a secret. Its 400 must be enough.
_wire_log = logging.getLogger("qsessions.emulator.wire")
_wire_log.setLevel(logging.CRITICAL + 1)


class Emulator:
    """The sessions service and its token endpoint, served from this process.

    Start it with `async with Emulator() as emulator:` or with `start` and `stop`; then point a client at
    `url` and `iam_url` with `api_key` and `crn` (`env` has them as environment variables). It belongs to the
    event loop that started it: from another thread, call in through that loop. Everything is kept in memory
    and survives a stop, and a stopped emulator starts again on the same port: so an outage can be played.

    host: where to listen. The default is reachable from this machine only; the emulator speaks plain HTTP and
        its credentials protect nothing, so leave it there unless the network is yours.
    port: 0 takes a free one.
    clock: unix seconds; whatever it says is the time of the service. The default starts at the wall clock and
        goes on monotonically.
    plan: "open" can't create dedicated sessions.
    partner: whether `interactive_ttl` and `active_ttl` may be set.
    interactive_ttl: the idle limit of a session that sets none, in whole seconds.
    token_seconds: how long an access token lives, in whole seconds.
    queue_seconds: how long every job waits before it may start.
    seed: makes ids, keys and tokens the same in every run. The keys are then no secret.
    backends: the names of the backends; the first serves jobs that name none.

    Raises ValueError for an argument out of range.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] | None = None,
        plan: Plan = "paid",
        partner: bool = False,
        interactive_ttl: int = 60,
        token_seconds: int = 3600,
        queue_seconds: float = 0.0,
        seed: int | None = None,
        backends: Sequence[str] = DEFAULT_BACKENDS,
    ) -> None:
        if plan not in {"paid", "open"}:
            raise ValueError("plan must be 'paid' or 'open'")
        if not 0 <= port <= 65535:
            raise ValueError("port must be from 0 to 65535")
        if interactive_ttl < 1:
            raise ValueError("interactive_ttl must be at least one second")
        random = SystemRandom() if seed is None else Random(seed)  # noqa: S311 - a seed asks for no secrets
        self._host = host
        self._port = port
        self._secrets = Secrets(
            api_key=_key(random, "emulated-"),
            backend_token=_key(random, "emulated-backend-"),
            service_token=_key(random, "emulated-service-"),
        )
        account = f"{random.getrandbits(128):032x}"
        guid = uuid.UUID(int=random.getrandbits(128), version=4)
        self.crn = f"crn:v1:bluemix:public:quantum-computing:us-east:a/{account}:{guid}::"
        self._machine = Machine(random=random, backends=backends, queue_seconds=queue_seconds)
        self._tokens = TokenOffice(
            api_key=self._secrets.api_key,
            account=account,
            user_id=_USER_ID,
            life_seconds=token_seconds,
            random=random,
        )
        self._recorder = Recorder(attrs.asdict(self._secrets))
        terms = Terms(plan=plan, partner=partner, interactive_ttl=interactive_ttl)
        self._service = self._assemble(terms, _running_clock() if clock is None else clock, random)
        self._runner: web.AppRunner | None = None

    def __repr__(self) -> str:
        state = "stopped" if self._runner is None else "running"
        return f"<Emulator {state} at {self._host}:{self._port}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _assemble(self, terms: Terms, clock: Callable[[], float], random: Random) -> Service:
        return Service(
            machine=self._machine,
            tokens=self._tokens,
            gate=Gate(secrets=self._secrets, crn=self.crn, tokens=self._tokens),
            terms=terms,
            recorder=self._recorder,
            crn=self.crn,
            user_id=_USER_ID,
            clock=clock,
            random=random,
        )

    async def start(self) -> None:
        """Listen. Raises RuntimeError if it already does, OSError if the address can't be had."""
        if self._runner is not None:
            raise RuntimeError("the emulator is running already")
        self._runner = web.AppRunner(
            self._service.application(),
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
        """The environment variables that lead clients to this emulator. Holds the API key."""
        return {
            "QSESSIONS_BASE_URL": self.url,
            "IAM_URL": self.iam_url,
            "QISKIT_IBM_TOKEN": self.api_key,
            "QISKIT_IBM_INSTANCE": self.crn,
        }

    def now(self) -> float:
        """The service's time in unix seconds. It never runs backwards, even if the clock does."""
        return self._service.now()

    @property
    def sessions(self) -> dict[str, Session]:
        """Every session as it stands now, by id, oldest first; a copy."""
        return self._machine.sessions(self.now())

    @property
    def jobs(self) -> dict[str, Job]:
        """Every job as it stands now, by id, oldest first; a copy."""
        return {job.id: job for job in self._machine.jobs(self.now())}

    @property
    def events(self) -> Sequence[Event]:
        """All that has happened to sessions and jobs until now, oldest first."""
        self.now()
        return self._machine.events

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The last 100,000 requests in the order of their answers, without secrets; a copy."""
        return self._recorder.requests

    def submit_job(
        self,
        session_id: str | None = None,
        *,
        seconds: float = 1.0,
        backend: str | None = None,
        program_id: str = "sampler",
    ) -> str:
        """Queue a job as another client would, without a request; returns its id.

        seconds: how long it will run. backend: by default its session's, or the first one.
        Raises Refusal where the service would answer with an error.
        """
        if not is_duration(seconds):
            raise invalid("seconds must be finite, 0 or more.")
        job = self._machine.submit_job(
            self.now(), program_id=program_id, seconds=seconds, backend=backend, session_id=session_id
        )
        return job.id

    def revoke_tokens(self) -> None:
        """Refuse every access token issued so far (401, code 1201). The API key stays good."""
        self._tokens.revoke()


def _running_clock() -> Callable[[], float]:
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


def _key(random: Random, prefix: str) -> str:
    return prefix + "".join(random.choices(_KEY_LETTERS, k=44 - len(prefix)))

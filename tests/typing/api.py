"""What a user of the package writes, for type checkers: every public name and call. Nothing runs
this file.
"""

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar, assert_type

import aiohttp
from yarl import URL

import qsessions
from qsessions import (
    ApiVersion,
    AsyncLiveSession,
    AsyncSessionClient,
    AuthProvider,
    BackendAuthentication,
    BadRequest,
    CallTimeout,
    ClientClosed,
    ClientStopped,
    Clock,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    CreateCancelled,
    CreateFailed,
    CreateOutcomeUnknown,
    CreateSession,
    Ending,
    EndingFailed,
    Event,
    ExternalServiceToken,
    Forbidden,
    IBMCloudAPIKey,
    IBMCloudAuth,
    Instance,
    InstanceLookupFailed,
    InstanceNotFound,
    InstanceUsage,
    InvalidArgument,
    Job,
    Lease,
    LeasedLedger,
    LeaseLost,
    LeaseState,
    LeaseTerms,
    Ledger,
    LedgerEntry,
    LedgerFailed,
    LedgerRecord,
    LedgerUnavailable,
    Liveness,
    LiveSession,
    LocalLedger,
    MaxUsageReached,
    Mode,
    NotFound,
    Observer,
    Owner,
    OwnershipLost,
    PostgresLedger,
    ProtocolError,
    QSessionsError,
    RateLimited,
    Raw,
    ReapDecision,
    Reaped,
    RecordState,
    Request,
    RequestFailed,
    RequestSent,
    Response,
    ResponseError,
    ResponseReceived,
    RetryPlanned,
    RetryPolicy,
    ServerError,
    ServiceCRN,
    Session,
    SessionClient,
    SessionClosed,
    SessionCreated,
    SessionDraining,
    SessionEnded,
    SessionLeftOpen,
    SessionState,
    StateChange,
    StateUnreachable,
    TokenExchangeFailed,
    TokenRenewed,
    Transport,
    Unauthorized,
    UpdateSession,
    UsagePeriod,
    Verdict,
    WatchIncomplete,
    Workload,
    forget,
    reap,
)

T = TypeVar("T")

assert_type(qsessions.__version__, str)


class MyAuth:
    """A provider of the user's own."""

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Ask somebody for a token, over the client's own connections."""
        answer = await transport.send(
            Request("my_token", "GET", URL("https://tokens.example/"), {})
        )
        assert_type(answer, Response)
        return {"Authorization": f"Bearer {answer.body.decode()}"}

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Ask again."""
        return True


class MyTransport:
    """A transport of the user's own, for tests."""

    async def send(self, request: Request) -> Response:
        """Answer every request alike."""
        assert_type(request.url, URL)
        assert_type(request.body, bytes | None)
        return Response(200, {"Date": "today"}, b"{}")

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a task."""
        return asyncio.create_task(coroutine)


class MyLedger:
    """A ledger of the user's own."""

    async def record(self, record: LedgerRecord) -> None:
        """Put it into a table."""

    async def entries(self) -> list[LedgerEntry]:
        """Read the table."""
        return []

    async def amend(self, changes: Sequence[tuple[LedgerEntry, LedgerRecord]]) -> Sequence[bool]:
        """Change the table."""
        return [entry.owner.liveness is Liveness.DEAD for entry, _ in changes]

    async def aclose(self) -> None:
        """Leave."""


class Counter:
    """An observer of the user's own."""

    def __call__(self, event: Event, /) -> None:  # noqa: C901 - a case for each
        """Tell events apart."""
        match event:
            case RequestSent() | RequestFailed() | ResponseReceived():
                assert_type(event.operation, str)
                assert_type(event.session_id, str | None)
            case RetryPlanned():
                assert_type(event.delay, float)
            case TokenRenewed():
                assert_type(event.expires_in, float)
            case SessionCreated():
                assert_type(event.max_ttl, int | None)
                assert_type(event.labels, Mapping[str, str])
            case CreateFailed():
                assert_type(event.outcome_unknown, bool)
            case SessionDraining() | SessionClosed() | SessionEnded():
                assert_type(event.session_id, str)
            case CreateCancelled():
                assert_type(event.closed, bool)
            case EndingFailed():
                assert_type(event.session_id, str)
                assert_type(event.operation, str)
            case MaxUsageReached():
                assert_type(event.usage_seconds, float)
                assert_type(event.max_usage, float)
            case LedgerFailed():
                assert_type(event.unrecorded, tuple[str, ...])
            case OwnershipLost():
                assert_type(event.reason, str)
                assert_type(event.taken_over, bool)
                assert_type(event.session_ids, tuple[str, ...])
            case ClientStopped():
                assert_type(event.base_url, str)


async def fresh_token() -> str:
    """Give a token."""
    return "token"


def setting_up(http: aiohttp.ClientSession) -> None:
    """All that a client can be made with."""
    provider: AuthProvider = MyAuth()
    transport: Transport = MyTransport()
    observer: Observer = Counter()
    loop = asyncio.get_running_loop()
    clock = Clock(
        monotonic=loop.time,
        wall=time.time,
        sleep=asyncio.sleep,
        random=random.random,
        call_later=loop.call_later,
    )
    crn = ServiceCRN("crn:v1:bluemix:public:quantum-computing:us-east:a/x:y::")
    assert_type(crn.crn, str)
    assert_type(crn.region, str)
    assert_type(IBMCloudAuth("key", "https://iam.example"), IBMCloudAuth)
    assert_type(IBMCloudAuth.from_token("token"), IBMCloudAuth)
    IBMCloudAuth("key", iam_url=None, clock=clock)
    IBMCloudAuth.from_token(lambda: "token")
    IBMCloudAuth.from_token(fresh_token)

    AsyncSessionClient()
    AsyncSessionClient(provider)
    AsyncSessionClient([])
    AsyncSessionClient([IBMCloudAPIKey("key"), crn])
    AsyncSessionClient((BackendAuthentication("token"), crn))
    AsyncSessionClient([ExternalServiceToken("token"), MyAuth()])
    mixed = [IBMCloudAuth("key"), crn]
    AsyncSessionClient(mixed)
    AsyncSessionClient(
        None,
        base_url="https://quantum.cloud.ibm.com/api",
        account="mine",
        account_file=Path("accounts.json"),
        api_version="latest",
        timeout="2m",
        retry=RetryPolicy(
            max_attempts=3, base_delay=0.1, max_delay=4, max_retry_after=30, budget=100
        ),
        http=http,
        ssl=ssl.create_default_context(),
        proxy=URL("http://proxy.example:3128"),
        application="my-orchestrator/1.2",
        headers={"X-Mine": "1"},
        max_concurrency=10,
        allow_insecure=True,
        observers=[observer, Counter(), print],
        clock=clock,
    )
    AsyncSessionClient(account="mine", account_file="~/accounts.json")
    AsyncSessionClient(timeout=None, proxy="http://proxy.example:3128")
    AsyncSessionClient(timeout=timedelta(minutes=1))
    AsyncSessionClient(timeout=...)
    AsyncSessionClient(transport=transport)
    AsyncSessionClient(transport=lambda own: own)
    SessionClient(transport=MyTransport())
    AsyncSessionClient(retry=RetryPolicy(budget=None))
    assert_type(transport.spawn(fresh_token()), asyncio.Task[str])

    AsyncSessionClient(transport=Counter())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AsyncSessionClient("key")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    wrong: AuthProvider = Counter()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong


async def calls() -> None:
    """Every call of the client, with every option."""
    async with AsyncSessionClient() as client:
        assert_type(client, AsyncSessionClient)
        session = await client.create(
            mode="dedicated",
            backend="ibm_fez",
            max_ttl="10m",
            interactive_ttl=60,
            active_ttl=timedelta(minutes=5),
            api_version="2026-04-15",
            timeout=None,
        )
        assert_type(session, Session)
        request = CreateSession(
            Mode.BATCH, backend="ibm_fez", max_ttl="10m", interactive_ttl=60, active_ttl=300
        )
        assert_type(request.mode, Mode)
        assert_type(request.max_ttl, int | None)
        assert_type(await client.create(request, timeout="30s"), Session)
        assert_type(await client.get(session.id, api_version="2026-04-15", timeout=5), Session)
        await client.update(session.id, accepting_jobs=True, extra={"a": [1]})
        await client.close(session.id, extra_headers={"X-A": "b"})
        tenant = client.with_options(instance="crn:v1:x", timeout=None, headers={"X-A": "b"})
        assert_type(tenant, AsyncSessionClient)
        raw = await client.raw(client.get, session.id, timeout=5)
        assert_type(raw, Raw[Session])
        assert_type(raw.headers, Mapping[str, str])
        assert_type((raw.status, raw.attempts, raw.seconds), tuple[int, int, float])
        assert_type((raw.request_id, raw.trace_id), tuple[str | None, str | None])
        await client.raw(client.get, session.id, tmeout=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await client.update(session.id, accepting_jobs=False, api_version="2026-04-15", timeout=5.5)
        await client.drain(session.id, api_version="2026-04-15", timeout=timedelta(seconds=5))
        await client.close(session.id, api_version="2026-04-15", timeout=...)
        assert_type(
            await client.has_pending_jobs(session.id, api_version="2026-04-15", timeout=5), bool
        )
        endings = await client.close_all(
            how="drain",
            mode="session",
            backend="ibm_fez",
            created_before=datetime.now(UTC),
            timeout="30s",
        )
        assert_type(endings, list[Ending])
        for ending in await client.close_all(include_owned=True):
            assert_type(ending.workload, Workload)
            assert_type(ending.done, Literal["drain", "close"] | None)
            assert_type(ending.owner, Owner | None)
            assert_type(ending.error, Exception | None)
        await client.close_all(how="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert_type(await client.versions(api_version="2026-04-15", timeout=5), list[ApiVersion])
        assert_type(await client.instances(timeout="5s"), list[Instance])
        assert_type(await client.resolve_instance(timeout=None), str | None)
        assert_type(client.workloads(), AsyncIterator[Workload])
        async for workload in client.workloads(
            mode=["session", "batch", "job"],
            status=("pending", "in_progress"),
            backend="ibm_fez",
            search="mine",
            created_after=datetime.now().astimezone(),
            created_before=datetime.now().astimezone(),
            newest_first=True,
            page_size=50,
            api_version="2026-04-15",
            timeout="1m",
        ):
            assert_type(workload, Workload)
        assert_type(
            [item.id async for item in client.workloads(mode="session", status="pending")],
            list[str],
        )

        client.update(session.id, False)  # type: ignore[call-arg, unused-coroutine]  # pyright: ignore[reportCallIssue]
        await client.get(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await client.create(mode="dedicated", max_ttl=1.5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.aclose()


async def owning(client: AsyncSessionClient) -> None:
    """A session that ends with its block."""
    AsyncSessionClient(ledger="local")
    AsyncSessionClient(ledger=LocalLedger("ledger"))
    async with client.open(
        mode="dedicated",
        backend="ibm_fez",
        max_ttl="1h",
        on_exit="close",
        on_error="drain",
        ending_timeout="1m",
        handle_signals=True,
        max_usage="5m",
        timeout=None,
    ) as live:
        assert_type(live, AsyncLiveSession)
        assert_type(live.ended_by, Literal["max_usage", "lost_lease"] | None)
    async with client.open(CreateSession(Mode.BATCH, max_ttl=600), ending_timeout=5.5) as live:
        assert_type(live.snapshot, Session | None)

    async with client.adopt("id", labels={"run": "42"}, on_error="drain", max_usage="5m") as live:
        assert_type(live, AsyncLiveSession)
    client.adopt("id", on_exit="leave")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.open(mode="batch", on_exit="leave")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    AsyncSessionClient(ledger=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    AsyncSessionClient(on_lost="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def living(client: AsyncSessionClient) -> None:
    """A handle on a session."""
    live = client.attach("s-1")
    assert_type(live, AsyncLiveSession)
    assert_type(live.id, str)
    assert_type(live.snapshot, Session | None)
    assert_type(await live.refresh(), Session)
    await live.drain()
    await live.close()
    assert_type(live.jobs(), AsyncIterator[Job])
    assert_type(live.watch(), AsyncIterator[Session])
    async for snapshot in live.watch():
        assert_type(snapshot, Session)
    assert_type(live.watch(timeout="5m"), AsyncIterator[Session])
    assert_type(client.watch(["s-1", "s-2"]), AsyncIterator[tuple[str, Session]])
    try:
        await anext(client.watch(["s-1"]))
    except WatchIncomplete as incomplete:
        assert_type(incomplete.errors, Mapping[str, QSessionsError])
    async for session_id, changed in client.watch({"s-1"}, rate=5, timeout=timedelta(hours=1)):
        assert_type(session_id, str)
        assert_type(changed, Session)
    assert_type(await live.wait_until("closed"), Session)
    assert_type(await live.wait_until(SessionState.ACTIVE, "closed", timeout="5m"), Session)
    await live.wait_until("closed", timeout=5)
    await live.wait_until("closed", timeout=timedelta(minutes=5))


def synchronous() -> None:
    """The same without awaiting."""
    SessionClient(
        [IBMCloudAPIKey("key")], base_url="https://quantum.cloud.ibm.com/api", timeout="2m"
    )
    with SessionClient() as client:
        assert_type(client, SessionClient)
        session = client.create(mode="dedicated", backend="ibm_fez", max_ttl="10m", timeout=None)
        assert_type(session, Session)
        assert_type(client.create(CreateSession(Mode.BATCH)), Session)
        assert_type(client.get(session.id, timeout=5), Session)
        client.update(session.id, accepting_jobs=False)
        client.drain(session.id)
        client.close(session.id)
        assert_type(client.has_pending_jobs(session.id, timeout="5s"), bool)
        assert_type(client.close_all(mode="batch"), list[Ending])
        assert_type(client.versions(), list[ApiVersion])
        assert_type(client.instances(), list[Instance])
        assert_type(client.resolve_instance(), str | None)
        assert_type(client.workloads(mode="session", status="pending"), Iterator[Workload])
        with client.adopt("id", ending_timeout="1m") as adopted:
            assert_type(adopted, LiveSession)
        with client.open(mode="dedicated", max_ttl="1h", handle_signals=True) as opened:
            assert_type(opened, LiveSession)
        live = client.attach(session.id)
        assert_type(live, LiveSession)
        assert_type(live.id, str)
        assert_type(live.snapshot, Session | None)
        assert_type(live.refresh(), Session)
        live.drain()
        live.close()
        assert_type(live.jobs(), Iterator[Job])
        assert_type(live.ended_by, Literal["max_usage", "lost_lease"] | None)
        assert_type(client.usage(), InstanceUsage)
        assert_type(live.watch(timeout=5), Iterator[Session])
        assert_type(client.watch([session.id], rate=5, timeout="1h"), Iterator[tuple[str, Session]])
        assert_type(live.wait_until("closed", SessionState.INACTIVE, timeout="5m"), Session)

        live.snapshot = session  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    client.shutdown()


def used(job: Job, usage: InstanceUsage, period: UsagePeriod) -> None:
    """Every field of what was used."""
    assert_type(job.id, str)
    assert_type(job.created, datetime | None)
    assert_type(job.ended, datetime | None)
    assert_type(job.status, str | None)
    assert_type(job.reason, str | None)
    assert_type(job.backend, str | None)
    assert_type(job.session_id, str | None)
    assert_type(job.program_id, str | None)
    assert_type(job.user_id, str | None)
    assert_type(job.tags, tuple[str, ...])
    assert_type(job.private, bool | None)
    assert_type(job.cost, float | None)
    assert_type(job.estimated_running_time_seconds, float | None)
    assert_type(job.usage_seconds, float | None)
    assert_type(job.extra, Mapping[str, object])
    assert_type(usage.usage_consumed_seconds, float)
    assert_type(usage.usage_limit_seconds, float | None)
    assert_type(usage.usage_allocation_seconds, float | None)
    assert_type(usage.usage_limit_reached, bool | None)
    assert_type(usage.usage_period, UsagePeriod | None)
    assert_type(usage.instance_id, str | None)
    assert_type(usage.plan_id, str | None)
    assert_type(usage.extra, Mapping[str, object])
    assert_type(period.start_time, datetime | None)
    assert_type(period.end_time, datetime | None)
    assert_type(period.extra, Mapping[str, object])


def values(session: Session, workload: Workload, version: ApiVersion, change: StateChange) -> None:
    """Every field of every value."""
    assert_type(session.id, str)
    assert_type(session.backend_name, str | None)
    assert_type(session.mode, Mode | None)
    assert_type(session.state, SessionState | None)
    assert_type(session.state_reason, str | None)
    assert_type(session.accepting_jobs, bool | None)
    assert_type(session.started_at, datetime | None)
    assert_type(session.activated_at, datetime | None)
    assert_type(session.closed_at, datetime | None)
    assert_type(session.last_job_started, datetime | None)
    assert_type(session.last_job_completed, datetime | None)
    assert_type(session.interactive_ttl, int | None)
    assert_type(session.max_ttl, int | None)
    assert_type(session.active_ttl, int | None)
    assert_type(session.timestamps, tuple[StateChange, ...])
    assert_type(session.user_id, str | None)
    assert_type(session.elapsed_time, float | None)
    assert_type(session.extra, Mapping[str, object])
    assert_type(session.is_final, bool)
    assert_type(change.status, SessionState)
    assert_type(change.timestamp, datetime)
    assert_type(SessionState("something_new").is_known, bool)
    assert_type(Mode("something_new"), Mode)
    assert_type(workload.created, datetime | None)
    assert_type(workload.ended, datetime | None)
    assert_type(workload.backend, str | None)
    assert_type(workload.instance, str | None)
    assert_type(workload.user_id, str | None)
    assert_type(workload.accepting_jobs, bool | None)
    assert_type(workload.mode, str | None)
    assert_type(workload.status, str | None)
    assert_type(workload.status_reason, str | None)
    assert_type(workload.tags, tuple[str, ...])
    assert_type(workload.usage_seconds, float | None)
    assert_type(workload.extra, Mapping[str, object])
    assert_type(version.version, str)
    assert_type(version.status, str | None)
    assert_type(version.sunset_date, str | None)
    assert_type(version.extra, Mapping[str, object])
    assert_type(UpdateSession(accepting_jobs=True).accepting_jobs, bool)
    text: str = SessionState.OPEN
    assert_type(text.upper(), str)

    session.id = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    session.extra["new"] = 1  # type: ignore[index]  # pyright: ignore[reportIndexIssue]


def show_progress(what: str, done: int, total: int) -> None:
    """Show how far `reap` is."""


async def reaping(client: AsyncSessionClient, ledger: Ledger) -> None:
    """What dead owners left, and every field of what became of it."""
    reaped = await reap(
        client,
        ledger,
        only=["s-1"],
        labels={"run": "1"},
        all_instances=True,
        dry_run=True,
        close_unique=True,
        wall=time.time,
        progress=show_progress,
    )
    assert_type(reaped, list[Reaped])
    assert_type(await forget(ledger, "s-1", wall=time.time), list[Reaped])
    (result,) = reaped
    assert_type(result.entry, LedgerEntry)
    assert_type(result.decision, ReapDecision)
    assert_type(result.done, bool)
    assert_type(result.error, Exception | None)
    assert_type(result.decision.verdict, Verdict)
    assert_type(result.decision.why, str)
    assert_type(result.decision.session_id, str | None)
    assert_type(result.decision.candidates, tuple[Workload, ...])
    assert_type(result.decision.record, LedgerRecord | None)


async def ledgers() -> None:
    """A ledger, and every field of its values."""
    mine: Ledger = MyLedger()
    ledger: Ledger = LocalLedger()
    ledger = LocalLedger(Path("ledger"), clock=Clock())
    leased: LeasedLedger = PostgresLedger(
        "postgresql://db/qsessions", terms=LeaseTerms(heartbeat=5, ttl=15, delay=90), clock=Clock()
    )
    AsyncSessionClient(ledger="postgresql://db/qsessions", on_lost="end")
    AsyncSessionClient(ledger=leased)
    assert_type(leased.terms, LeaseTerms)
    assert_type(leased.terms.patience, float)
    assert_type(leased.lease, Lease)
    assert_type(leased.lease.state, LeaseState)
    assert_type(await leased.take_over(), float)
    assert_type(await PostgresLedger("postgresql://db/qsessions").init(), int)
    assert_type(ledger.place_of(None), Ledger)
    record = LedgerRecord.intent(
        CreateSession("batch"),
        base_url="https://quantum.example/api",
        instance=None,
        now=1.0,
        detached=True,
        labels={"run": "1"},
    )
    record = record.becomes(RecordState.CREATED, now=2.0, session_id="s-1")
    assert_type(record, LedgerRecord)
    assert_type(record.key, str)
    assert_type(record.base_url, str)
    assert_type(record.instance, str | None)
    assert_type(record.mode, Mode)
    assert_type(record.backend, str | None)
    assert_type(record.max_ttl, int | None)
    assert_type(record.asked_at, float)
    assert_type(record.changed_at, float)
    assert_type(record.state, RecordState)
    assert_type(record.session_id, str | None)
    assert_type(record.detached, bool)
    assert_type(record.labels, Mapping[str, str])
    await ledger.record(record)
    entries = await ledger.entries()
    assert_type(entries, Sequence[LedgerEntry])
    for entry in entries:
        assert_type(entry.record, LedgerRecord)
        assert_type(entry.source, str)
        assert_type(entry.owner, Owner)
        assert_type(entry.owner.host, str | None)
        assert_type(entry.owner.pid, int | None)
        assert_type(entry.owner.since, float | None)
        assert_type(await mine.amend([(entry, record)]), Sequence[bool])
    await ledger.aclose()

    await ledger.record("s-1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    wrong: Ledger = Counter()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong


async def failing(client: AsyncSessionClient) -> None:
    """Every error, from the nearest to the root."""
    try:
        await client.get("s-1")
    except (
        BadRequest,
        Conflict,
        Forbidden,
        InstanceNotFound,
        NotFound,
        Unauthorized,
        RateLimited,
        ServerError,
    ) as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.status, int | None)
    except ResponseError as error:
        assert_type(error.retry_after, float | None)
    except (CallTimeout, ConnectionFailed) as error:
        assert_type(error.sent, bool)
    except CreateOutcomeUnknown as error:
        assert_type(error.session_id, str | None)
        assert_type(error.request, CreateSession | None)
        assert_type(error.asked_at, datetime | None)
        assert_type(error.candidates, tuple[Workload, ...] | None)
    except (
        ClientClosed,
        ConfigurationError,
        InvalidArgument,
        LeaseLost,
        LedgerUnavailable,
        ProtocolError,
    ) as error:
        assert_type(error.solution, str | None)
    except (
        InstanceLookupFailed,
        SessionLeftOpen,
        StateUnreachable,
        TokenExchangeFailed,
    ) as error:
        assert_type(error.code, str | None)
    except QSessionsError as error:
        assert_type(error.message, str)
        assert_type(error.to_dict(), dict[str, Any])
        assert_type(error.to_json(), str)
        assert_type(error.operation, str | None)
        assert_type(error.method, str | None)
        assert_type(error.path, str | None)
        assert_type(error.trace_id, str | None)
        assert_type(error.argument, str | None)
        assert_type(error.details, str)
        assert_type(error.attempts, int)
        assert_type(error.retryable, bool)
    value_error: ValueError = InvalidArgument("it broke")
    timeout_error: TimeoutError = CallTimeout("it broke", sent=False)
    raise value_error from timeout_error

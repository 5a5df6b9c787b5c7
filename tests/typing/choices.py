"""Arguments that are one of a few texts, for type checkers: what they take, and what each of them
refuses. Nothing runs this file.
"""

from typing import Any

from qsessions import (
    AsyncLiveSession,
    AsyncSessionClient,
    CreateSession,
    LedgerRecord,
    LiveSession,
    Mode,
    RecordState,
    SessionClient,
    SessionState,
)
from qsessions.emulator import Emulator, Fault


async def modes(client: AsyncSessionClient, text: str) -> None:
    """A mode is a member or one of two texts; text that isn't known beforehand becomes a member."""
    CreateSession("batch")
    CreateSession(Mode.DEDICATED)
    CreateSession("dedicatd")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CreateSession(text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CreateSession()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

    await client.create(mode="batch")
    await client.create(mode=Mode.DEDICATED)
    await client.create(mode=Mode(text))
    await client.create(CreateSession("batch"), labels={"run": "42"})
    await client.create(mode="dedicatd")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.create(mode=text)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.create(mode=None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.create()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await client.create(backend="ibm_fez")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await client.create(CreateSession("batch"), mode="batch")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

    client.open(mode="batch", on_exit="close")
    client.open(CreateSession("batch"), on_exit="close", handle_signals=True)
    client.open(mode="dedicatd")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.open(max_ttl="1h")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    client.open(mode="batch", on_error="stop")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.open(CreateSession("batch"), max_ttl="1h")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def modes_without_await(client: SessionClient, text: str) -> None:
    """The same."""
    client.create(mode="batch")
    client.create(mode=Mode.DEDICATED)
    client.create(CreateSession("batch"))
    client.create(mode="dedicatd")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.create(mode=text)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.create()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    client.open(mode="batch", on_exit="close")
    client.open(CreateSession("batch"))
    client.open(mode="dedicatd")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    client.open()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def lists(client: AsyncSessionClient, text: str) -> None:
    """The list of workloads has words of its own."""
    client.workloads(mode="session", status="pending")
    client.workloads(mode=["batch", "job"], status=("pending", "in_progress"))
    client.workloads(mode="dedicated")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.workloads(mode=["sesion"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    client.workloads(status="pendign")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.workloads(status=("pendign",))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.workloads(status=text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.close_all(how="drain", mode="session")
    await client.close_all(mode=("session", "batch"))
    await client.close_all(mode="job")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await client.close_all(how="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def lists_without_await(client: SessionClient) -> None:
    """The same."""
    client.workloads(mode=("session",), status="completed")
    client.workloads(status="pendign")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.workloads(mode="sesion")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.close_all(mode="job")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def states(live: AsyncLiveSession, blocking: LiveSession, text: str) -> None:
    """A state is a member, one that the service added later too, or the text of one."""
    await live.wait_until("closed", SessionState.ACTIVE, SessionState(text))
    await live.wait_until("opened")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await live.wait_until(text)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    blocking.wait_until("pending_inactive", SessionState.CLOSED)
    blocking.wait_until("opened")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def records(mode: Mode, state: RecordState) -> None:
    """A ledger of the user's own makes records of what it has kept."""
    about: dict[str, Any] = {"key": "1", "base_url": "https://x.example", "asked_at": 0}
    LedgerRecord(mode=mode, state=state, changed_at=0, **about)
    LedgerRecord(mode="batch", changed_at=0, **about)
    LedgerRecord(mode="btch", changed_at=0, **about)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LedgerRecord(mode=mode, state="made", changed_at=0, **about)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def emulators(emulator: Emulator) -> None:
    """What an emulator takes and shows."""
    Emulator(plan="open", faults=[Fault(kind="reset", operations=["create", "get"])])
    emulator.add_instance(plan="paid")
    Emulator(plan="free")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    emulator.add_instance(plan="free")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Fault(kind="rest")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Fault(kind="reset", operations=["creat"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    assert emulator.sessions["s-1"].state == "closed"

"""A create whose answer is being read."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from qsessions import AsyncSessionClient, ClientClosed, CreateSession, Request, Response
from qsessions.api import operations
from qsessions.session.pending_creates import PendingCreates


class _Interrupted(bytes):
    """A body at whose reading Ctrl-C comes."""

    __slots__ = ()

    def decode(self, *_: Any) -> str:
        """Be interrupted."""
        raise KeyboardInterrupt


async def test_an_interrupted_reading_leaves_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames of the reading, which hold a body that may repeat a credential, are not in the
    traceback of a Ctrl-C.
    """
    client = AsyncSessionClient([], base_url="http://127.0.0.1")

    async def send(request: Request) -> Response:
        return Response(200, body=_Interrupted(b"planted"))

    monkeypatch.setattr(client._transport, "send", send)
    with pytest.raises(KeyboardInterrupt) as caught:
        await client._caller.call(operations.create(CreateSession("batch")))
    (frame,) = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert frame.f_code.co_name == test_an_interrupted_reading_leaves_no_frame.__name__


async def test_nothing_is_stopped_where_nothing_is_refused() -> None:
    """A signal that was acted on by a second one meanwhile stops no create."""
    creates, stopped = PendingCreates(), list[object]()
    creates.add(object(), stopped.append)
    creates.stop_unsent()
    assert stopped == []
    creates.refuse(ClientClosed("closed"))
    creates.stop_unsent()
    assert len(stopped) == 1

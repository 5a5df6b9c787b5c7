"""A create on its way to its end."""

from __future__ import annotations

import traceback
from types import SimpleNamespace
from typing import Any

import pytest

from qsessions.api.messages import Response
from qsessions.events import Observers
from qsessions.session.create import Creation


class _Interrupted(bytes):
    """A body at whose reading Ctrl-C comes."""

    __slots__ = ()

    def decode(self, *_: Any) -> str:
        """Be interrupted."""
        raise KeyboardInterrupt


async def test_an_interrupted_reading_leaves_no_frame() -> None:
    """The frames of the reading, which hold a body that may repeat a credential, are not in the traceback of a Ctrl-C."""
    book: Any = SimpleNamespace()
    close: Any = None
    creation = Creation(book, close, Observers(), {})
    with pytest.raises(KeyboardInterrupt) as caught:
        await creation.keep(Response(200, body=_Interrupted(b"planted")))
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert frames[-1].f_code.co_name == "keep"
    assert all("planted" not in repr(frame.f_locals) for frame in frames[1:])

"""A transport of the user's own, in place of the client's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeGuard, TypeVar

from qsessions.api.messages import Request, Response, Transport, strip_frames
from qsessions.clock import Clock
from qsessions.errors import (
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    ConnectionFailed,
    QSessionsError,
)
from qsessions.http.transport import AiohttpTransport

T = TypeVar("T")

# How many seconds later than the client's own transport, which says more where it is inside.
_GRACE_S = 0.01


class UserTransport:
    """Carries requests by the user's transport, under the client's rules.

    It holds what is sent to the deadline and to the addresses that are allowed, and what is raised
    to qsessions' own errors.

    Args:
        given: The user's transport, or what makes it of the client's own.
        own: The client's own.
        clock: The time.

    Raises:
        ConfigurationError: It is neither.
    """

    def __init__(
        self,
        given: Transport | Callable[[Transport], Transport],
        own: AiohttpTransport,
        clock: Clock,
    ) -> None:
        # A class has the methods too, and makes a transport of the client's own.
        if callable(given) and (isinstance(given, type) or not hasattr(given, "send")):
            given = given(own)
        methods = (getattr(given, name, None) for name in ("send", "spawn"))
        if isinstance(given, type) or not all(map(callable, methods)):
            raise ConfigurationError(
                "transport= must be a transport, which has send() and spawn(), or a function that "
                f"returns one, not {type(given).__name__}.",
                argument="transport",
            )
        self._given: Any = given
        self._own = own
        self._clock = clock

    async def send(self, request: Request) -> Response:
        """Carry one request; see `Transport.send`.

        Raises:
            ClientClosed: The client was closed.
            ConfigurationError: The URL is plain http to another machine.
            CallTimeout: Time was up.
            ConnectionFailed: The transport raised an error that isn't one of qsessions, or returned
                no `Response`. Whether the request was carried out isn't known.
        """
        if self._own.is_closed:
            raise ClientClosed("the client is closed.")
        self._own.check(request.url)
        scope = self._clock.timeout(request.timeout and request.timeout + _GRACE_S)
        try:
            with scope:
                response: Any = await self._given.send(request)
            if _is_whole(response):
                return response
            problem = f"returned no Response but {type(response).__name__}"
            if isinstance(response, Response):
                problem = "returned a Response whose status, headers or body is of a wrong type"
        except QSessionsError as error:
            # Others that led here may hold headers.
            strip_frames(error)
            raise
        except Exception as error:  # noqa: BLE001 - it may be any
            problem = request.mask(f"raised {type(error).__name__}: {error}")
        if scope.expired:
            raise CallTimeout("the call's deadline passed without an answer.")
        raise ConnectionFailed(
            f"transport= {problem}",
            retryable=False,
            solution="Correct the transport: it raises ConnectionFailed where there is no answer.",
            argument="transport",
        )

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task of the user's transport."""
        task: asyncio.Task[T] = self._given.spawn(coroutine)
        return task


def _is_whole(response: Any) -> TypeGuard[Response]:
    """Return whether what a transport returned is what it must be."""
    kinds = {"status": int, "headers": Mapping, "body": bytes}
    return isinstance(response, Response) and all(
        isinstance(getattr(response, name), kind) for name, kind in kinds.items()
    )

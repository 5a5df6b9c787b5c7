"""What qsessions raises: `QSessionsError`, and a class for each case that callers handle apart.

Errors carry facts, not sentinels: what isn't known is None. They survive pickling with their fields
and notes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from qsessions.jsonable import Jsonable, jsonable

if TYPE_CHECKING:
    from datetime import datetime

    from qsessions.models import CreateSession, Workload

ErrorT = TypeVar("ErrorT", bound=Exception)

_LAST_FAILURE = "; the last failure: "

# So many candidates are listed in a message.
_LISTED = 5

# What an error that takes another's place says as that one did.
_FACTS = (
    "operation",
    "session_id",
    "method",
    "path",
    "status",
    "code",
    "trace_id",
    "attempts",
    "retryable",
)


def as_sentence(text: str) -> str:
    """Return text with a full stop, unless it ends a sentence already."""
    return text if text.endswith((".", "?", "!", "…")) else f"{text}."


class QSessionsError(Jsonable, Exception):
    """The root of every error that qsessions raises.

    Attributes:
        message: What happened: the service's own words where it gave some.
        operation: What was asked for: create, get, update, drain, close, has_pending_jobs,
            versions, workloads, jobs, usage, instances, resolve_instance, configure,
            token_exchange, wait_until or watch.
        session_id: The session it was asked of, or None.
        method: The HTTP method of the request, or None where no request was involved.
        path: The raw path of the request, or None.
        status: The HTTP status of the answer, or None where there was no answer.
        code: The service's error code, always a string (the wire has strings and integers), or
            None.
        solution: What to do next: the service's advice, else ours, or None.
        argument: The client's argument that the solution is about, such as "auth" or "ssl", or
            None.
        trace_id: The identifier to quote to IBM support, or None.
        attempts: How many requests qsessions sent or tried to send for this call. (The HTTP library
            may itself repeat a GET or DELETE once when its connection is lost; that is not
            counted.)
        retryable: True when the same call made again later may succeed and can do no harm.
    """

    hint: ClassVar[str | None] = None
    # What a class says besides.
    _more_facts: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        message: str,
        *,
        operation: str | None = None,
        session_id: str | None = None,
        method: str | None = None,
        path: str | None = None,
        status: int | None = None,
        code: str | None = None,
        solution: str | None = None,
        argument: str | None = None,
        trace_id: str | None = None,
        attempts: int = 0,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.session_id = session_id
        self.method = method
        self.path = path
        self.status = status
        self.code = code
        self.solution = solution or self.hint
        self.argument = argument
        self.trace_id = trace_id
        self.attempts = attempts
        self.retryable = retryable

    def __str__(self) -> str:
        text = problem_of(self)
        return f"{as_sentence(text)} {self.solution}" if self.solution else text

    def to_dict(self) -> dict[str, Any]:
        """Return the error's facts by name, with its class as `type` and its notes.

        `cause` is the error of qsessions that led to it, in the same form, or None. The values are
        those that JSON has; a time is text in ISO 8601, in UTC.
        """
        names = ("message", *_FACTS, "solution", "argument", *self._more_facts)
        cause = self.__cause__
        return {
            "type": type(self).__name__,
            **{name: jsonable(getattr(self, name)) for name in names},
            "notes": list(getattr(self, "__notes__", ())),
            "cause": cause.to_dict() if isinstance(cause, QSessionsError) else None,
        }

    @property
    def details(self) -> str:
        """What happened, with the status, the code, the trace id and the number of attempts."""
        named = {"status": self.status, "code": self.code, "trace": self.trace_id}
        facts = [f"{name} {value}" for name, value in named.items() if value is not None]
        if self.attempts > 1:
            facts.append(f"{self.attempts} attempts")
        return f"{self.message.removesuffix('.')} ({', '.join(facts)})" if facts else self.message

    def reworded(self, message: str) -> Self:
        """Replace the message, and return the error itself."""
        self.message, self.args = message, (message,)
        return self

    @classmethod
    def from_failure(cls, failure: QSessionsError, message: str, **facts: Any) -> Self:
        """Return an error of this class with the facts of another one, except its solution.

        Args:
            failure: The error whose facts are copied.
            message: What happened.
            facts: Facts that differ from those of `failure`.
        """
        copied = {name: getattr(failure, name) for name in _FACTS}
        return cls(message, **copied | facts)

    def with_context(
        self, *, operation: str, session_id: str | None, method: str, path: str, attempts: int
    ) -> Self:
        """Add where the error happened, unless it has that already, and return the error itself."""
        if self.operation is None:
            self.operation, self.method, self.path, self.attempts = (
                operation,
                method,
                path,
                attempts,
            )
            self.session_id = self.session_id or session_id
        return self


class ConfigurationError(QSessionsError):
    """The client is set up or used wrongly: credentials, URL, options. Nothing was sent."""


class InvalidArgument(QSessionsError, ValueError):
    """An argument of a call or a field of a model can't be right. Nothing was sent."""


class ClientClosed(QSessionsError):
    """The client was closed before or during the call."""

    hint = "Make the call before the client is closed, inside its `with` block."


class LedgerUnavailable(QSessionsError):
    """The ledger can't be read or written, or was closed.

    Sessions are created and ended all the same.
    """

    hint = (
        "Check that its directory exists, has room and is yours, or that its database can be "
        "reached; or give another ledger."
    )


class LeaseLost(QSessionsError):
    """No session was created or taken over: this process has lost its lease in a shared ledger.

    Another process has taken its sessions over, and ends them. Or, with `on_lost="end"`, another
    may do so soon, and this one ends them itself.
    """

    hint = (
        "Restart the process, or make a new client with a ledger of its own: either holds a new "
        "lease. This one does so once these sessions are over."
    )


class _Unanswered(QSessionsError):
    _more_facts = ("sent",)

    def __init__(
        self, message: str, *, sent: bool = True, retryable: bool = True, **facts: Any
    ) -> None:
        super().__init__(message, retryable=retryable, **facts)
        self.sent = sent


class ConnectionFailed(_Unanswered):
    """The service could not be reached, or the connection was lost before the answer was complete.

    Attributes:
        sent: True when the request may have reached the service; False when it can't have.
    """

    hint = "Check the network, the proxy and the base URL."


class CallTimeout(_Unanswered, TimeoutError):
    """The call's deadline passed. It is a `TimeoutError` too.

    Attributes:
        sent: True when a request without an answer may have reached the service.
    """

    hint = "Allow more time with `timeout=`, or retry the call."

    def after(self, failure: str) -> Self:
        """Add what failed last before, "" for nothing, and return the error itself."""
        # In place of what an inner wait may have added.
        message = self.message.partition(_LAST_FAILURE)[0].removesuffix(".")
        return self.reworded(f"{message}{_LAST_FAILURE}{failure}") if failure else self


class ProtocolError(QSessionsError):
    """The answer isn't one that the service gives.

    It is not HTTP or not JSON, lacks an id, has a field of the wrong form, or is larger than 1 MiB.
    """

    hint = "Check that the base URL is the service's, and that no proxy answers in its place."


class TokenExchangeFailed(QSessionsError):
    """IAM refused or failed to exchange the API key for a token, or its answer can't be read.

    `code` is IAM's own, and `message` ends with its words.
    """

    hint = "Check the API key and that IAM's URL belongs to the same cloud."


class InstanceLookupFailed(QSessionsError):
    """IBM Cloud's Global Search refused or failed to list the account's instances.

    Nothing was sent to the service. `status` and `code` are Global Search's own.
    """

    hint = "Check the key, or make the call again later."


class CreateOutcomeUnknown(QSessionsError):
    """A session may have been created: no answer came, or it can't be read.

    The request isn't repeated: the service has no idempotency key, so a repeat could create a
    second session that costs. `session_id` is set where the answer can't be read but has an id.

    Attributes:
        request: What was asked for.
        asked_at: When the call began, an aware time: by the service's clock where the search for
            candidates got its time, else by this machine's.
        candidates: The sessions or batches, newest first, that were created since then and fit the
            request, without those that this client created or that its ledger has for other
            creates. One of them may be the session. It may also be another user's, and a slow
            service may list it later. None without a search: the call's deadline had passed, the
            service could not be read, or `session_id` is known.
    """

    _more_facts = ("request", "asked_at", "candidates")
    hint = "Look through client.workloads() for a session that you don't know, and close it."

    def __init__(
        self,
        message: str,
        *,
        request: CreateSession | None = None,
        asked_at: datetime | None = None,
        candidates: tuple[Workload, ...] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.request = request
        self.asked_at = asked_at
        self.candidates = candidates

    def set_candidates(self, asked_at: datetime, candidates: tuple[Workload, ...]) -> None:
        """Set the candidates that a search through the workloads found."""
        self.asked_at, self.candidates = asked_at, candidates
        if candidates:
            ids = ", ".join(repr(candidate.id) for candidate in candidates[:_LISTED])
            more = f" and {len(candidates) - _LISTED} more" if len(candidates) > _LISTED else ""
            self.solution = (
                f"It may be {ids}{more}: close what was created since and that you don't know."
            )
        else:
            self.solution = f"None was listed just after. {self.hint}"


class SessionLeftOpen(QSessionsError):
    """A block of `open()` went well, but its session could not be ended and may go on costing.

    `__cause__` says why.
    """

    hint = "End it with close(session_id) as soon as the service can be reached."


class StateUnreachable(QSessionsError):
    """The awaited state can't be reached any more, for example since the session is closed."""


class WatchIncomplete(QSessionsError):
    """Some sessions of a `watch` of many could not be followed to their end; all others were.

    Attributes:
        errors: Why, by the session's id, in the order in which the watch left them.
    """

    def __init__(
        self, message: str, *, errors: Mapping[str, QSessionsError] | None = None, **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.errors: Mapping[str, QSessionsError] = {} if errors is None else errors

    def to_dict(self) -> dict[str, Any]:
        """Return the error as JSON has it; see `QSessionsError.to_dict`."""
        return super().to_dict() | {
            "errors": {session_id: error.to_dict() for session_id, error in self.errors.items()}
        }


class ResponseError(QSessionsError):
    """The service answered with a status other than success.

    Attributes:
        retry_after: How many seconds to wait, as the service asked, or None.
    """

    _more_facts = ("retry_after",)

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class BadRequest(ResponseError):
    """400: the service can't accept what was asked."""


class Unauthorized(ResponseError):
    """401: the credentials are wrong or have expired, and fresh ones were refused too."""

    hint = "Check the API key or token, and that it belongs to the instance's account."


class Forbidden(ResponseError):
    """403: the credentials are valid but don't allow this."""

    hint = "Check the instance's CRN, the plan and the user's access to the instance."


class NotFound(ResponseError):
    """404 in the service's own form: the instance has no such session."""

    hint = "Check the id, and that the session belongs to this instance."


class InstanceNotFound(ResponseError):
    """404 with the service's code 1279: there is no such instance at this address.

    It says nothing about a session, which may be open.

    The service has been seen to give it for an instance of another region, for one that was
    deleted, and while its own look-up failed.
    """

    hint = "Check the instance's CRN and its region; the session, if there is one, may be open."


class Conflict(ResponseError):
    """409: the session's state doesn't allow this.

    Without a status: an update was accepted and reopened nothing.
    """


class RateLimited(ResponseError):
    """429: too many requests. `retry_after` has the seconds to wait, if the service named any."""

    hint = "Wait, and make fewer calls at a time."


class ServerError(ResponseError):
    """5xx: the service or something in front of it failed."""

    hint = "Make the call again later; quote the trace id to IBM support if it goes on."


def problem_of(error: Exception, operation: str | None = None) -> str:
    """Return what happened, without the advice.

    Args:
        error: The error.
        operation: The operation that need not be named, or None.
    """
    if not isinstance(error, QSessionsError):
        return f"{type(error).__name__}: {error}"
    # The messages of a token exchange name it themselves, with IAM's host.
    place = [error.operation] if error.operation not in {operation, "token_exchange"} else []
    if error.session_id is not None:
        place.append(f"session {error.session_id!r}")
    subject = " of ".join(filter(None, place))
    return f"{subject}: {error.details}" if subject else error.details


def one_line(text: str) -> str:
    """Return text for a log or a terminal: unprintable characters, line ends too, become spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def copy_error(error: ErrorT) -> ErrorT:
    """Return a copy of an error, for each of several callers to add its own traceback and notes to.

    A foreign error that can't be copied is returned itself.
    """
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - an error that can't be copied must still be raised
        return error
    copied.__cause__ = error.__cause__
    if (notes := getattr(error, "__notes__", None)) is not None:
        copied.__notes__ = list(notes)
    return copied

"""The one attempt loop: deadline, credentials, send, decide.

Every request goes through it, the token exchange included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from attrs import define, field

from qsessions.api.codec import Fault, decode_fault, printable
from qsessions.api.messages import (
    FRAMING_HEADERS,
    AuthProvider,
    Request,
    Response,
    SecretHeaders,
    Transport,
    header_problem,
    strip_frames,
)
from qsessions.api.outcome import CreateOutcomeUnknown
from qsessions.clock import Clock
from qsessions.errors import (
    INSTANCE_NOT_FOUND_CODE,
    CallTimeout,
    ClientClosed,
    ConfigurationError,
    InstanceNotFound,
    NotFound,
    QSessionsError,
    ResponseError,
    replica,
    response_error_class,
)
from qsessions.events import (
    Event,
    Observers,
    RequestFailed,
    RequestSent,
    ResponseReceived,
    RetryPlanned,
)
from qsessions.http.retry import (
    REPEATABLE_STATUSES,
    SUCCESS_EARNS,
    Action,
    Decision,
    Facts,
    RetryBudget,
    RetryPolicy,
    facts_of,
    is_reserved,
    may_be_carried_out,
    retry_after_of,
    retry_cost,
)
from qsessions.http.unrepeatable import InFlight, Undo

T = TypeVar("T")

_WALL = (
    "An HTML page answered in the service's place: the wall of a CDN, a proxy or a company network. "
    "Check the base URL, the proxy and whether this address may reach the service; the credentials weren't looked at."
)


@define
class _Call:
    """One call on its way: what was asked, until when, and how far it has come."""

    request: Request
    deadline: float | None
    providers: Sequence[AuthProvider]
    undo: Undo | None = None
    urgent: bool = False
    paid: int = 0
    attempts: int = 0
    refreshed: bool = False
    maybe_done: bool = False
    secrets: tuple[str, ...] = field(default=(), repr=False)
    given: list[tuple[AuthProvider, SecretHeaders]] = field(factory=list)

    def credentials(self) -> SecretHeaders:
        return SecretHeaders(
            {name: value for _, headers in self.given for name, value in headers.items()}
        )

    def is_done(self, response: Response) -> bool:
        if self.maybe_done and response.status in self.request.done_when_repeated:
            # As for `response_error_class`, neither another's answer nor a missing instance says anything about the session.
            fault = decode_fault(response.body)
            return fault.own and INSTANCE_NOT_FOUND_CODE not in fault.codes
        return response.is_success

    def masked(self, text: str) -> str:
        return self.request.attempt(self.credentials(), None).mask(text, self.secrets)

    def located(self, error: QSessionsError) -> QSessionsError:
        """Say in an error where it happened, and keep out of it any secret that a server echoed."""
        error.message = self.masked(error.message)
        error.args = (error.message,)
        error.code, error.solution, error.trace_id = (
            text and self.masked(text) for text in (error.code, error.solution, error.trace_id)
        )
        request = self.request
        return error.located(
            operation=request.operation,
            session_id=request.session_id,
            method=request.method,
            path=request.url.raw_path,
            attempts=self.attempts,
        )


class Attempts:
    """Carries requests out: as often as the policy allows, within the call's deadline, with the providers' headers.

    It is a `Transport` itself. That is what auth providers are given, so that their requests follow the same rules; those carry no
    credentials but their own.

    Attributes:
        providers: Who gives the headers; a client that has yet to find its credentials sets it before its first call.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        retry: RetryPolicy,
        clock: Clock,
        observers: Observers,
        providers: Sequence[AuthProvider] = (),
    ) -> None:
        self._transport = transport
        self._retry = retry
        self._budget = RetryBudget(retry.budget)
        # How many urgent calls are under way.
        self._urgent = 0
        self._clock = clock
        self._observers = observers
        self.providers = providers
        self._in_flight = InFlight(transport, observers)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task that the transport owns."""
        return self._transport.spawn(coroutine)

    def notify(self, event: Event) -> None:
        """Tell the observers."""
        self._observers.notify(event)

    def refuse(self, why: ClientClosed | None) -> None:
        """Begin no request any more that can't be repeated, and say why; None begins them again."""
        self._in_flight.refusal = why

    async def admit(self, request: Request) -> None:
        """Raise, for a request that can't be repeated, what refuses it, if something does."""
        try:
            await self._in_flight.admit()
        except ClientClosed as error:
            raise self._call(request, None, ()).located(error) from None

    async def settle(self, timeout: float) -> None:
        """Wait, `timeout` seconds at the most, until no request that can't be repeated is in flight."""
        await self._in_flight.settle(timeout)

    async def send(self, request: Request) -> Response:
        """Carry a request out within `request.timeout` seconds, without credentials; give its last answer, whatever the status."""
        # A token is for whoever needs one, who may be about to end a session.
        call = self._call(request, request.timeout, (), urgent=True)
        result, decision = await self._conclude(call)
        if isinstance(result, Response):
            return Response(
                result.status, result.headers, result.body, call.attempts, result.secrets
            )
        raise self._failure(call, result, decision)

    async def run(
        self,
        request: Request,
        read: Callable[[Response], T],
        timeout: float | None,
        *,
        authenticated: bool = True,
        undo: Undo | None = None,
        urgent: bool = False,
    ) -> T:
        """Carry a request out and read its answer.

        Args:
            request: What to send; credentials are added here.
            read: Reads the answer of a success.
            timeout: The deadline of the whole call in seconds, or None.
            authenticated: Whether to add credentials.
            undo: For a request that can't be repeated: what becomes of what it did when the caller is cancelled meanwhile.
            urgent: Whether the end of a session depends on it, or may: neither the retry budget nor a full pool holds it up.

        Raises:
            QSessionsError: The class says what happened; see errors.py.
        """
        call = self._call(
            request, timeout, self.providers if authenticated else (), undo=undo, urgent=urgent
        )
        self._urgent += urgent
        try:
            return await self._answer(call, read)
        except Exception:
            raise
        except BaseException as interruption:
            # The frames that a Ctrl-C or a cancellation met hold what came and what was sent.
            strip_frames(interruption)
            raise
        finally:
            self._urgent -= urgent

    async def _answer(self, call: _Call, read: Callable[[Response], T]) -> T:
        result, decision = await self._conclude(call)
        if not isinstance(result, Response) or not call.is_done(result):
            raise self._failure(call, result, decision)
        try:
            return read(result)
        except QSessionsError as error:
            # The frames of the decoding hold the body.
            failure = call.located(error.with_traceback(None))
            failure.status = failure.status or result.status
        raise failure

    def _call(
        self,
        request: Request,
        timeout: float | None,
        providers: Sequence[AuthProvider],
        *,
        undo: Undo | None = None,
        urgent: bool = False,
    ) -> _Call:
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        return _Call(request, deadline, providers, undo, urgent)

    def _remaining(self, call: _Call) -> float | None:
        return None if call.deadline is None else call.deadline - self._clock.monotonic()

    async def _conclude(self, call: _Call) -> tuple[Response | QSessionsError, Decision]:
        """Make attempts until one is a success or the policy ends it; give the last result and the decision on it."""
        while True:
            if call.providers:
                await self._ask_providers(call)
            call.attempts += 1
            result = await self._attempt(call)
            if isinstance(result, Response):
                call.secrets = result.secrets
                if call.is_done(result):
                    self._budget.earn(call.paid or SUCCESS_EARNS)
                    return result, Decision(Action.FAIL, "")
                if result.status == 401 and not call.refreshed and self._invalidate(call, result):
                    call.refreshed = True
                    continue
            facts = facts_of(
                call.request,
                result,
                attempt=call.attempts,
                remaining=self._remaining(call),
                now=self._clock.wall(),
            )
            decision = self._retry.decide(facts, self._clock.random)
            if decision.action is Action.RETRY and not self._afford(call, facts):
                spent = "the client's retry budget is spent, since too many of its requests failed of late"
                decision = Decision(Action.FAIL, f"{decision.reason}: {spent}")
            if decision.action is not Action.RETRY:
                return result, decision
            call.maybe_done = call.maybe_done or may_be_carried_out(facts)
            self.notify(
                RetryPlanned(
                    operation=call.request.operation,
                    session_id=call.request.session_id,
                    attempt=call.attempts,
                    delay=decision.delay,
                    reason=decision.reason,
                )
            )
            await self._clock.sleep(decision.delay)

    def _afford(self, call: _Call, facts: Facts) -> bool:
        """Pay for another attempt, and say whether there is one. What ends a session is never refused, nor the token that it waits for."""
        call.paid = retry_cost(facts)
        return self._budget.pay(call.paid, whatever_is_left=call.urgent and self._urgent > 0)

    async def _ask_providers(self, call: _Call) -> None:
        """Get the headers of the next attempt. A provider's error ends the call: nothing was sent."""
        call.given = []
        names: set[str] = set()
        problem: QSessionsError | None = None
        scope = asyncio.timeout(self._remaining(call))
        try:
            async with scope:
                for provider in call.providers:
                    headers = _own(provider, await provider.headers(self))
                    problem = _header_conflict(names, provider, headers)
                    if problem is not None:
                        break
                    call.given.append((provider, headers))
        except QSessionsError as error:
            # The provider may raise the same error again, for another call.
            problem = replica(error)
        except TimeoutError:
            if not scope.expired():
                raise
            problem = CallTimeout(
                "the call's deadline passed while waiting for credentials; nothing was sent.",
                sent=False,
            )
        if problem is None:
            return
        if problem.operation is not None:
            problem.add_note(
                f"{call.request.operation} needed the credentials; nothing was sent to the service."
            )
        raise call.located(problem)

    def _invalidate(self, call: _Call, refusal: Response) -> bool:
        if decode_fault(refusal.body).html:
            # The wall of a CDN or a company knows nothing of the token.
            return False
        # Each provider is told, so no short cut at the first that says yes.
        answers = [provider.invalidate(headers) for provider, headers in call.given]
        return any(answers)

    async def _attempt(self, call: _Call) -> Response | QSessionsError:
        """Send once; give the answer, or the error that stands for none."""
        remaining = self._remaining(call)
        if remaining is not None and remaining <= 0:
            return CallTimeout(
                "the call's deadline passed before the request was sent.", sent=False
            )
        request = call.request.attempt(call.credentials(), remaining, urgent=call.urgent)
        if not self._observers.listening:
            return await self._send(call, request)
        about: dict[str, Any] = {
            "operation": request.operation,
            "session_id": request.session_id,
            "method": request.method,
            "path": request.url.raw_path,
            "attempt": call.attempts,
        }
        self.notify(RequestSent(**about))
        started = self._clock.monotonic()
        result = await self._send(call, request)
        about["seconds"] = self._clock.monotonic() - started
        if isinstance(result, Response):
            self.notify(ResponseReceived(**about, status=result.status))
        else:
            self.notify(RequestFailed(**about, reason=request.mask(result.message)))
        return result

    async def _send(self, call: _Call, request: Request) -> Response | QSessionsError:
        try:
            if call.undo is None:
                return await self._transport.send(request)
            return await self._in_flight.send(request, call.undo)
        except QSessionsError as error:
            return error.with_traceback(None)

    def _failure(
        self, call: _Call, result: Response | QSessionsError, decision: Decision
    ) -> QSessionsError:
        """Make the error that a call ends with."""
        error = (
            self._response_error(call.request, result) if isinstance(result, Response) else result
        )
        if decision.action is Action.UNKNOWN:
            error = CreateOutcomeUnknown(
                f"the session may have been created: {error.message}",
                status=error.status,
                code=error.code,
                trace_id=error.trace_id,
            )
        elif decision.reason:
            error.add_note(_untold(decision.reason, call.attempts))
        return call.located(error)

    def _response_error(self, request: Request, response: Response) -> QSessionsError:
        fault = decode_fault(response.body)
        if 300 <= response.status < 400:
            to = printable(response.header("Location") or "nowhere")
            message = (
                f"the service answered with a redirect to {to}, and redirects aren't followed."
            )
        else:
            message = fault.message or "the service gave no reason"
        kind = response_error_class(
            response.status, own=fault.own, codes=fault.codes, html=fault.html
        )
        return kind(
            message,
            status=response.status,
            code=fault.code,
            solution=_advice(request, response.status, kind, fault),
            trace_id=fault.trace_id,
            retry_after=retry_after_of(response, self._clock.wall()),
            retryable=response.status in REPEATABLE_STATUSES or is_reserved(response.status, fault),
        )


def _advice(request: Request, status: int, kind: type[ResponseError], fault: Fault) -> str | None:
    """Return the advice on an answer: the service's, or ours where the answer may come from something else."""
    if status in {401, 403} and fault.html:
        return _WALL
    if kind is InstanceNotFound:
        return _sentences(kind.hint, fault.solution)
    if status != 404:
        return fault.solution
    base_url = str(request.url).partition("/v1/")[0]
    if not fault.own:
        return f"Something else than the service answered: check the base URL, {base_url}, which normally ends in /api, and any proxy."
    if base_url.endswith("/api"):
        return fault.solution
    check = f"Check the base URL, {base_url}, which normally ends in /api."
    # Where no session is named, the hint on its id is none.
    return _sentences(
        fault.solution or (NotFound.hint if request.session_id is not None else None), check
    )


def _sentences(*texts: str | None) -> str:
    return " ".join(f"{text.removesuffix('.')}." for text in texts if text)


def _untold(reason: str, attempts: int) -> str:
    """Give the part of a decision's reason that the error's text doesn't say: that one has the status and counts the attempts."""
    return reason.partition(": ")[2].replace(f" after {attempts} attempts,", " at")


def _own(provider: AuthProvider, given: object) -> SecretHeaders:
    """Take a provider's headers over, so that no frame of ours holds them in a form that shows them."""
    if isinstance(given, SecretHeaders):
        return given
    if isinstance(given, Mapping):
        return SecretHeaders(given)
    kind = type(given).__name__
    del given
    raise ConfigurationError(
        f"{type(provider).__name__}.headers() gave {kind}, not a mapping of header names to values."
    )


def _header_conflict(
    names: set[str], provider: AuthProvider, headers: SecretHeaders
) -> ConfigurationError | None:
    """Check a provider's headers, and add their names to those that are taken."""
    who = type(provider).__name__
    for name, value in headers.items():
        if problem := header_problem(name, value):
            return ConfigurationError(f"the header {name!r} that {who} gave {problem}.")
        if name.lower() in names:
            return ConfigurationError(
                f"two auth providers set the header {name}; the second is {who}."
            )
        if name.lower() in FRAMING_HEADERS:
            return ConfigurationError(
                f"{who} can't set the header {name}, which qsessions sets itself."
            )
        names.add(name.lower())
    return None

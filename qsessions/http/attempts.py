"""The one attempt loop: deadline, credentials, send, decide.

Every request goes through it, the token exchange included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from attrs import define, field

from qsessions.api.error_body import decode_error_body
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
from qsessions.clock import Clock, Deadline
from qsessions.errors import (
    INSTANCE_NOT_FOUND_CODE,
    CallTimeout,
    ConfigurationError,
    ConnectionFailed,
    QSessionsError,
    copy_error,
)
from qsessions.events import (
    Event,
    Observers,
    RequestFailed,
    RequestSent,
    ResponseReceived,
    RetryPlanned,
)
from qsessions.http.response_errors import response_error
from qsessions.http.retry import (
    SUCCESS_EARNS,
    Action,
    Decision,
    RetryBudget,
    RetryPolicy,
    facts_of,
    may_be_carried_out,
    retry_cost,
)

T = TypeVar("T")


@define
class _Call:
    """One call under way.

    Attributes:
        urgent: Whether the end of a session depends on it, or may.
        attempts: How many requests were sent.
        retry_cost: What its last retry took from the budget.
        is_refreshed: Whether it had its one fresh credential after a 401.
        may_be_applied: Whether an earlier attempt may have been carried out.
        response_secrets: Texts that the transport added and that must not show up.
        credentials: The headers of this attempt, by provider.
    """

    request: Request
    deadline: Deadline
    providers: Sequence[AuthProvider]
    urgent: bool = False
    attempts: int = 0
    retry_cost: int = 0
    is_refreshed: bool = False
    may_be_applied: bool = False
    response_secrets: tuple[str, ...] = field(default=(), repr=False)
    credentials: list[tuple[AuthProvider, SecretHeaders]] = field(factory=list)

    def secret_headers(self) -> SecretHeaders:
        return SecretHeaders(
            {name: value for _, headers in self.credentials for name, value in headers.items()}
        )

    def is_success(self, response: Response) -> bool:
        if self.may_be_applied and response.status in self.request.done_when_repeated:
            # As for `response_error_class`, neither another's answer nor a missing instance
            # says anything about the session.
            parsed = decode_error_body(response.body)
            return parsed.is_service_error and INSTANCE_NOT_FOUND_CODE not in parsed.codes
        return response.is_success

    def with_context(self, error: QSessionsError) -> QSessionsError:
        """Add to an error where it happened, and mask every secret that a server echoed."""
        request = self.request

        def masked(text: str) -> str:
            attempt = request.attempt(self.secret_headers(), None)
            return attempt.mask(text, self.response_secrets)

        error.message = masked(error.message)
        error.args = (error.message,)
        error.code, error.solution, error.trace_id = (
            text and masked(text) for text in (error.code, error.solution, error.trace_id)
        )
        return error.with_context(
            operation=request.operation,
            session_id=request.session_id,
            method=request.method,
            path=request.url.raw_path,
            attempts=self.attempts,
        )


class Attempts:
    """Sends requests: as often as the policy allows, within the call's deadline, with credentials.

    It is a `Transport` itself. Auth providers get it as theirs, so that their requests follow the
    same rules; those carry no credentials but their own.

    Attributes:
        providers: What gives the credentials; set before the first call.
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

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task that the transport owns."""
        return self._transport.spawn(coroutine)

    def notify(self, event: Event) -> None:
        """Notify the observers."""
        self._observers.notify(event)

    async def send(self, request: Request) -> Response:
        """Send a request within `request.timeout` seconds, without credentials.

        Return the last answer, whatever its status.
        """
        # The call that needs a token may be about to end a session.
        call = _Call(request, self._clock.deadline(request.timeout), (), urgent=True)
        result, decision = await self._send_with_retries(call)
        if isinstance(result, Response):
            return Response(
                result.status, result.headers, result.body, call.attempts, result.secrets
            )
        raise self._failure(call, result, decision)

    async def run(
        self,
        request: Request,
        read: Callable[[Response], T],
        deadline: Deadline,
        *,
        authenticated: bool = True,
        urgent: bool = False,
    ) -> T:
        """Send a request and read its answer.

        Args:
            request: What to send; credentials are added here.
            read: Reads the answer of a success.
            deadline: The deadline of the whole call.
            authenticated: Whether to add credentials.
            urgent: Whether the end of a session depends on it, or may: neither the retry budget
                nor a full pool holds it up.

        Raises:
            QSessionsError: The class says what happened; see errors.py.
        """
        providers = self.providers if authenticated else ()
        call = _Call(request, deadline, providers, urgent)
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
        result, decision = await self._send_with_retries(call)
        if not isinstance(result, Response) or not call.is_success(result):
            raise self._failure(call, result, decision)
        try:
            return read(result)
        except QSessionsError as error:
            # The frames of the decoding hold the body.
            failure = call.with_context(error.with_traceback(None))
            failure.status = failure.status or result.status
        raise failure

    async def _send_with_retries(self, call: _Call) -> tuple[Response | QSessionsError, Decision]:
        """Send until an attempt succeeds or the policy ends it; return the last result and why."""
        progress = call.request.progress
        while True:
            progress.begun = False
            if call.providers:
                await self._ask_providers(call)
            call.attempts += 1
            result = await self._attempt(call)
            if isinstance(result, Response):
                call.response_secrets = result.secrets
                if call.is_success(result):
                    self._budget.earn(call.retry_cost or SUCCESS_EARNS)
                    return result, Decision(Action.FAIL)
                if result.status == 401 and not call.is_refreshed and _invalidate(call, result):
                    call.is_refreshed = True
                    continue
            decision = self._decide(call, result)
            if decision.action is not Action.RETRY or progress.stopped:
                return result, decision
            progress.begun = False
            await self._clock.sleep(decision.delay)

    def _decide(self, call: _Call, result: Response | QSessionsError) -> Decision:
        """Decide what becomes of a call after an attempt that was no success."""
        facts = facts_of(
            call.request,
            result,
            attempt=call.attempts,
            remaining=call.deadline.remaining(),
            now=self._clock.wall(),
        )
        decision = self._retry.decide(facts, self._clock.random)
        if decision.action is not Action.RETRY:
            return decision
        call.retry_cost = retry_cost(facts)
        # What ends a session is never refused, nor the token that it waits for.
        is_needed = call.urgent and self._urgent > 0
        if not self._budget.pay(call.retry_cost, whatever_is_left=is_needed):
            return Decision(
                Action.FAIL,
                "the client's retry budget is spent, since too many of its requests failed of late",
            )
        call.may_be_applied = call.may_be_applied or may_be_carried_out(facts)
        self.notify(
            RetryPlanned(
                operation=call.request.operation,
                session_id=call.request.session_id,
                attempt=call.attempts,
                delay=decision.delay,
                reason=facts.failure,
            )
        )
        return decision

    async def _ask_providers(self, call: _Call) -> None:
        """Get the credentials of the next attempt. A provider's error ends the call."""
        call.credentials = []
        names: set[str] = set()
        problem: QSessionsError | None = None
        scope = asyncio.timeout(call.deadline.remaining())
        try:
            async with scope:
                for provider in call.providers:
                    headers = _secret(provider, await provider.headers(self))
                    problem = _header_conflict(names, provider, headers)
                    if problem is not None:
                        break
                    call.credentials.append((provider, headers))
        except QSessionsError as error:
            # The provider may raise the same error again, for another call.
            problem = copy_error(error)
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
        raise call.with_context(problem)

    async def _attempt(self, call: _Call) -> Response | QSessionsError:
        """Send once; return the answer, or the error that stands for none."""
        remaining = call.deadline.remaining()
        if remaining is not None and remaining <= 0:
            return CallTimeout(
                "the call's deadline passed before the request was sent.", sent=False
            )
        if call.request.progress.stopped:
            return ConnectionFailed("the request was given up before it was sent.", sent=False)
        request = call.request.attempt(call.secret_headers(), remaining, urgent=call.urgent)
        # Until the transport knows better.
        request.progress.begun = None
        if not self._observers.listening:
            return await self._send(request)
        about: dict[str, Any] = {
            "operation": request.operation,
            "session_id": request.session_id,
            "method": request.method,
            "path": request.url.raw_path,
            "attempt": call.attempts,
        }
        self.notify(RequestSent(**about))
        started = self._clock.monotonic()
        result = await self._send(request)
        if isinstance(result, Response) and result.is_success:
            # An observer may end it all.
            request.progress.answer = result
        about["seconds"] = self._clock.monotonic() - started
        if isinstance(result, Response):
            self.notify(ResponseReceived(**about, status=result.status))
        else:
            self.notify(RequestFailed(**about, reason=request.mask(result.message)))
        return result

    async def _send(self, request: Request) -> Response | QSessionsError:
        try:
            return await self._transport.send(request)
        except QSessionsError as error:
            return error.with_traceback(None)

    def _failure(
        self, call: _Call, result: Response | QSessionsError, decision: Decision
    ) -> QSessionsError:
        """Return the error that a call ends with."""
        error: QSessionsError = (
            response_error(call.request, result, self._clock.wall())
            if isinstance(result, Response)
            else result
        )
        if decision.action is Action.UNKNOWN:
            error = CreateOutcomeUnknown.from_failure(
                error, f"the session may have been created: {error.message}", retryable=False
            )
        elif decision.note:
            error.add_note(decision.note)
        return call.with_context(error)


def _invalidate(call: _Call, refusal: Response) -> bool:
    """Have each provider drop what a 401 refused; return whether a fresh try may do better."""
    if decode_error_body(refusal.body).html:
        # The wall of a CDN or a company knows nothing of the token.
        return False
    # Each provider is asked, so no short cut at the first that says yes.
    answers = [provider.invalidate(headers) for provider, headers in call.credentials]
    return any(answers)


def _secret(provider: AuthProvider, headers: object) -> SecretHeaders:
    """Return a provider's headers in a form that no frame of ours shows."""
    if isinstance(headers, SecretHeaders):
        return headers
    if isinstance(headers, Mapping):
        return SecretHeaders(headers)
    kind = type(headers).__name__
    del headers
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

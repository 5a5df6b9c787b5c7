"""The one attempt loop: deadline, credentials, send, decide.

Every request goes through it, the token exchange included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import attrs

from qsessions.api.messages import (
    AuthProvider,
    Progress,
    Request,
    Response,
    Transport,
    header_problem,
    replaced,
    strip_frames,
)
from qsessions.clock import Clock, Deadline
from qsessions.errors import (
    CallTimeout,
    CreateOutcomeUnknown,
    Forbidden,
    InstanceNotFound,
    NotFound,
    QSessionsError,
    Unauthorized,
)
from qsessions.events import (
    Observers,
    RequestFailed,
    RequestSent,
    ResponseReceived,
    RetryPlanned,
)
from qsessions.http.call_state import CallState
from qsessions.http.credentials import NO_CREDENTIALS
from qsessions.http.raw import RECORDING, Recording
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
from qsessions.values import with_changes

T = TypeVar("T")

# They may be due to a key and a CRN that don't belong together.
_REFUSALS = (Unauthorized, Forbidden, NotFound, InstanceNotFound)


class Attempts:
    """Sends requests: as often as the policy allows, within the call's deadline, with credentials.

    It is a `Transport` itself. Auth providers get it as theirs, so that their requests follow the
    same rules; those carry no credentials but their own.

    Attributes:
        clock: The time.
        observers: What is notified of events.
        providers: What gives the credentials; set before the first call.
        origins: What to add to the advice on a refusal of these credentials, or None.
        awaited: The deadline of the latest request that calls wait for: a token exchange or a
            look-up. In a list, which those of `with_policy` share.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        retry: RetryPolicy,
        clock: Clock,
        observers: Observers,
    ) -> None:
        self._transport = transport
        self._retry = retry
        self._budget = RetryBudget(retry.budget)
        self.clock = clock
        self.observers = observers
        self.providers: Sequence[AuthProvider] = ()
        self.origins: str | None = None
        self._credentials = NO_CREDENTIALS
        self.awaited = [clock.deadline(None)]

    def with_policy(self, retry: RetryPolicy | None) -> Attempts:
        """Return one with another policy, or None for the same, on the same retry budget."""
        return with_changes(self, _retry=retry or self._retry)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task that the transport owns."""
        return self._transport.spawn(coroutine)

    async def send(self, request: Request) -> Response:
        """Send a request within `request.timeout` seconds, without credentials.

        Return the last answer, whatever its status.
        """
        # The call that needs a token may be about to end a session.
        call = CallState(
            # The provider keeps its request, and this changes with each attempt.
            attrs.evolve(request, urgent=True, progress=Progress()),
            self.clock.deadline(request.timeout),
            (),
            any_status=True,
        )
        result = await self._send_with_retries(call)
        return Response(result.status, result.headers, result.body, call.attempts, result.secrets)

    async def run(
        self,
        request: Request,
        read: Callable[[Response], T],
        deadline: Deadline,
        *,
        providers: Sequence[AuthProvider] | None = None,
    ) -> T:
        """Send a request and read its answer.

        Args:
            request: What to send. Each attempt sets its credentials and timeout. Neither the retry
                budget nor a full pool holds up an urgent one.
            read: Reads the answer of a success.
            deadline: The deadline of the whole call.
            providers: What gives its credentials; empty for none, None for the client's own.

        Raises:
            QSessionsError: The class says what happened; see errors.py.
        """
        call = CallState(request, deadline, self.providers if providers is None else providers)
        self._budget.urgent += request.urgent
        try:
            result = await self._send_with_retries(call)
            if Recording.is_used and (recording := RECORDING.get()) is not None:
                recording.answer, recording.attempts = result, call.attempts
            try:
                return read(result)
            except QSessionsError as error:
                # The frames of the decoding hold the body.
                failure = call.with_context(error.with_traceback(None))
            failure.status = failure.status or result.status
            raise failure
        except Exception:
            raise
        except BaseException as interruption:
            # The frames that a Ctrl-C or a cancellation met hold what came and what was sent.
            strip_frames(interruption)
            raise
        finally:
            self._budget.urgent -= request.urgent

    async def _send_with_retries(self, call: CallState) -> Response:
        """Send until an attempt succeeds or the policy ends it; return the answer.

        Raises:
            QSessionsError: No attempt succeeded. With `call.any_status` each answer is returned.
        """
        progress = call.request.progress
        while True:
            progress.begun = False
            if call.providers:
                call.credentials = await call.ask_providers(self, self._credentials, self.awaited)
                self._credentials = call.credentials
            # What calls wait for is a provider's own request, or has another provider.
            others = call.providers and call.providers is not self.providers
            self.awaited[0] = call.deadline if others or call.any_status else self.awaited[0]
            call.attempts += 1
            progress.attempts = call.attempts
            result: Response | QSessionsError | None = call.prepare()
            if result is None:
                send = self._send_observed if self.observers.listening else self._send
                try:
                    result = await send(call.request)
                except QSessionsError as error:
                    result = error.with_traceback(None)
            if isinstance(result, Response):
                if call.is_success(result):
                    call.deadline.last_failure = ""
                    self._budget.earn(call.retry_cost or SUCCESS_EARNS)
                    return result
                may_refresh = not (call.is_refreshed or progress.stopped)
                if result.status == 401 and may_refresh and call.invalidate(result):
                    call.is_refreshed = True
                    continue
            decision = self._decide(call, result)
            if decision.action is not Action.RETRY or progress.stopped:
                if call.any_status and isinstance(result, Response):
                    return result
                raise self._failure(call, result, decision)
            progress.begun = False
            await (progress.wait or self.clock.sleep)(decision.delay)

    def _decide(self, call: CallState, result: Response | QSessionsError) -> Decision:
        """Decide what becomes of a call after an attempt that was no success."""
        facts = facts_of(
            call.request,
            result,
            attempt=call.attempts,
            remaining=call.deadline.remaining(),
            now=self.clock.wall(),
        )
        decision = self._retry.decide(facts, self.clock.random)
        if decision.action is not Action.RETRY or call.request.progress.stopped:
            return decision
        call.retry_cost = retry_cost(facts)
        # What ends a session is never refused, nor the token that it waits for.
        if not self._budget.pay(
            call.retry_cost, whatever_is_left=call.request.urgent and self._budget.urgent > 0
        ):
            return Decision(
                Action.FAIL,
                "the client's retry budget is spent, since too many of its requests failed of late",
            )
        call.may_be_applied = call.may_be_applied or may_be_carried_out(facts)
        reason = "no answer" if facts.status is None else f"status {facts.status}"
        call.deadline.last_failure = (
            f"{call.request.operation}: {getattr(result, 'message', reason)}"
        )
        self.observers.notify(
            RetryPlanned(
                operation=call.request.operation,
                session_id=call.request.session_id,
                attempt=call.attempts,
                delay=decision.delay,
                reason=reason,
            )
        )
        return decision

    def _send(self, request: Request) -> Coroutine[Any, Any, Response]:
        # Until the transport knows better.
        request.progress.begun = None
        return self._transport.send(request)

    async def _send_observed(self, request: Request) -> Response:
        """Send once, and notify the observers before and after."""
        about: dict[str, Any] = {
            "operation": request.operation,
            "session_id": request.session_id,
            "method": request.method,
            "origin": str(request.url.origin()),
            "path": request.url.raw_path,
            "attempt": request.progress.attempts,
        }
        sent = RequestSent(**about)
        self.observers.notify(sent)
        # What goes elsewhere, such as to IAM, has no version.
        if "IBM-API-Version" in request.headers:
            trace = self.observers.trace_headers(sent)
            if trace and not any(header_problem(*header) for header in trace.items()):
                request.headers = replaced(request.headers, trace)
        started = self.clock.monotonic()
        try:
            result = await self._send(request)
        except BaseException as error:
            about["seconds"] = self.clock.monotonic() - started
            reason = error.message if isinstance(error, QSessionsError) else "it was interrupted."
            self.observers.notify(RequestFailed(**about, error=type(error).__name__, reason=reason))
            raise
        about["seconds"] = self.clock.monotonic() - started
        if result.is_success:
            # An observer may end it all.
            request.progress.answer = result
        self.observers.notify(ResponseReceived(**about, status=result.status))
        return result

    def _failure(
        self, call: CallState, result: Response | QSessionsError, decision: Decision
    ) -> QSessionsError:
        """Return the error that a call ends with."""
        error: QSessionsError = (
            response_error(call.request, result, self.clock.wall())
            if isinstance(result, Response)
            else result
        )
        if isinstance(error, CallTimeout):
            error.after(call.deadline.last_failure)
        if decision.action is Action.UNKNOWN:
            error = CreateOutcomeUnknown.from_failure(
                error, f"the session may have been created: {error.message}", retryable=False
            )
        elif decision.note:
            error.add_note(decision.note)
        if self.origins and call.providers is self.providers and isinstance(error, _REFUSALS):
            error.solution = f"{error.solution or ''} {self.origins}".lstrip()
        return call.with_context(error)

"""What one call knows from its first attempt to its end: credentials, progress, context."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from qsessions.api.error_body import decode_error_body
from qsessions.api.messages import (
    AuthProvider,
    Request,
    Response,
    SecretHeaders,
    Transport,
)
from qsessions.clock import Deadline
from qsessions.errors import (
    CallTimeout,
    ConnectionFailed,
    NotFound,
    QSessionsError,
    copy_error,
)
from qsessions.http.credentials import (
    NO_CREDENTIALS,
    Credentials,
    ask,
    checked,
    invalidate,
    rest_of,
)
from qsessions.http.response_errors import response_error_class


class CallState:
    """One call under way.

    Args:
        request: The request, changed by each attempt.
        deadline: The deadline of the whole call.
        providers: What gives its credentials.
        any_status: Whether it ends with an answer of any status, rather than with its error.

    Attributes:
        attempts: How many requests were sent.
        retry_cost: What its last retry took from the budget.
        is_refreshed: Whether it had its one fresh credential after a 401.
        may_be_applied: Whether an earlier attempt may have been carried out.
        credentials: The credentials of this attempt.
        is_sent: Whether the transport had `request`.
    """

    # Most calls end with their first attempt, and never change these.
    attempts = 0
    retry_cost = 0
    is_refreshed = False
    may_be_applied = False
    credentials = NO_CREDENTIALS
    is_sent = False

    def __init__(
        self,
        request: Request,
        deadline: Deadline,
        providers: Sequence[AuthProvider],
        *,
        any_status: bool = False,
    ) -> None:
        self.request = request
        self.deadline = deadline
        self.providers = providers
        self.any_status = any_status

    def is_success(self, response: Response) -> bool:
        """Return whether an answer means that the call succeeded."""
        if self.may_be_applied and response.status in self.request.done_when_repeated:
            # Neither another's answer nor a missing instance says anything about the session.
            body = decode_error_body(response.body)
            return response_error_class(response.status, body) is NotFound
        return 200 <= response.status < 300

    def with_context(self, error: QSessionsError) -> QSessionsError:
        """Add to an error where it happened, and return it."""
        request = self.request
        return error.with_context(
            operation=request.operation,
            session_id=request.session_id,
            method=request.method,
            path=request.url.raw_path,
            attempts=self.attempts,
        )

    def prepare(self) -> QSessionsError | None:
        """Prepare the request for an attempt; return an error where it can't be sent any more."""
        remaining = self.deadline.remaining()
        if remaining is not None and remaining <= 0:
            return CallTimeout(
                "the call's deadline passed before the request was sent.", sent=False
            )
        if self.request.progress.stopped:
            return ConnectionFailed("the request was given up before it was sent.", sent=False)
        if self.is_sent:
            # The transport may have kept it.
            self.request = attrs.evolve(self.request)
        self.request.credentials = self.credentials.merged
        self.request.timeout = remaining
        self.is_sent = True
        return None

    async def ask_providers(
        self, transport: Transport, latest: Credentials, awaited: Sequence[Deadline]
    ) -> Credentials:
        """Get the credentials of the next attempt.

        Args:
            transport: For the providers' own requests.
            latest: The client's latest ones, which are returned where the providers returned the
                same headers again.
            awaited: The deadline of what the providers wait for.

        Raises:
            QSessionsError: A provider's error, or the deadline passed.
        """
        try:
            asking = ask(self.providers, transport, latest.merged)
            # Providers that wait for nothing cost no timer.
            try:
                waits_for = asking.send(None)
            except StopIteration as done:
                by_provider: list[SecretHeaders] = done.value
            else:
                by_provider = await rest_of(asking, waits_for, self.deadline)
            # Compared by content: a provider may change its mapping.
            if by_provider == latest.by_provider:
                return latest
            return checked(self.providers, by_provider)
        except QSessionsError as error:
            # The provider may raise the same error again, for another call.
            problem = copy_error(error)
        if problem.operation is not None:
            # What else needs them, such as the look-up of the instance, has no version.
            is_call = "IBM-API-Version" in self.request.headers
            unsent = "; nothing was sent to the service" if is_call else ""
            problem.add_note(f"{self.request.operation} needed the credentials{unsent}.")
        elif isinstance(problem, CallTimeout):
            problem.after(awaited[0].last_failure or self.deadline.last_failure)
        raise self.with_context(problem)

    def invalidate(self, refusal: Response) -> bool:
        """Have each provider drop what a 401 refused; return whether a fresh try may do better.

        Raises:
            QSessionsError: A provider's error.
        """
        if decode_error_body(refusal.body).html:
            # The wall of a CDN or a company knows nothing of the token.
            return False
        # Each provider is asked, so no short cut at the first that says yes.
        try:
            answers = [
                invalidate(provider, headers)
                for provider, headers in zip(
                    self.providers, self.credentials.by_provider, strict=True
                )
            ]
        except QSessionsError as error:
            problem = copy_error(error)
        else:
            return any(answers)
        raise self.with_context(problem)

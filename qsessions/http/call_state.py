"""What one call knows from its first attempt to its end: credentials, progress, context."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from attrs import define, field

from qsessions.api.error_body import decode_error_body
from qsessions.api.messages import (
    RESERVED_HEADERS,
    AuthProvider,
    Request,
    Response,
    SecretHeaders,
    Transport,
    header_problem,
)
from qsessions.clock import Deadline
from qsessions.errors import (
    INSTANCE_NOT_FOUND_CODE,
    CallTimeout,
    ConfigurationError,
    QSessionsError,
    copy_error,
)


@define
class CallState:
    """One call under way.

    Attributes:
        urgent: Whether the end of a session depends on it, or may.
        any_status: Whether it ends with an answer of any status, rather than with its error.
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
    any_status: bool = False
    attempts: int = 0
    retry_cost: int = 0
    is_refreshed: bool = False
    may_be_applied: bool = False
    response_secrets: tuple[str, ...] = field(default=(), repr=False)
    credentials: list[tuple[AuthProvider, SecretHeaders]] = field(factory=list)

    def secret_headers(self) -> SecretHeaders:
        """Return the headers of all providers."""
        return SecretHeaders(
            {name: value for _, headers in self.credentials for name, value in headers.items()}
        )

    def is_success(self, response: Response) -> bool:
        """Return whether an answer means that the call succeeded."""
        if self.may_be_applied and response.status in self.request.done_when_repeated:
            # As for `response_error_class`, neither another's answer nor a missing instance
            # says anything about the session.
            parsed = decode_error_body(response.body)
            return parsed.is_service_error and INSTANCE_NOT_FOUND_CODE not in parsed.codes
        return response.is_success

    def with_context(self, error: QSessionsError) -> QSessionsError:
        """Add to an error where it happened, and mask every secret that a server echoed."""
        request = self.request.attempt(self.secret_headers(), None)
        error.message = request.mask(error.message, self.response_secrets)
        error.code, error.solution, error.trace_id = (
            text and request.mask(text, self.response_secrets)
            for text in (error.code, error.solution, error.trace_id)
        )
        error.args = (error.message,)
        return error.with_context(
            operation=request.operation,
            session_id=request.session_id,
            method=request.method,
            path=request.url.raw_path,
            attempts=self.attempts,
        )

    async def ask_providers(self, transport: Transport) -> None:
        """Get the credentials of the next attempt.

        Args:
            transport: For the providers' own requests.

        Raises:
            QSessionsError: A provider's error, or the deadline passed.
        """
        self.credentials = []
        names: set[str] = set()
        scope = asyncio.timeout(self.deadline.remaining())
        try:
            async with scope:
                for provider in self.providers:
                    headers = _checked(provider, await provider.headers(transport), names)
                    self.credentials.append((provider, headers))
            return
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
        if problem.operation is not None:
            problem.add_note(
                f"{self.request.operation} needed the credentials; nothing was sent to the service."
            )
        raise self.with_context(problem)

    def invalidate(self, refusal: Response) -> bool:
        """Have each provider drop what a 401 refused; return whether a fresh try may do better."""
        if decode_error_body(refusal.body).html:
            # The wall of a CDN or a company knows nothing of the token.
            return False
        # Each provider is asked, so no short cut at the first that says yes.
        answers = [provider.invalidate(headers) for provider, headers in self.credentials]
        return any(answers)


def _checked(provider: AuthProvider, headers: object, names: set[str]) -> SecretHeaders:
    """Return a provider's headers in a form that no frame of ours shows, and add their names.

    Args:
        provider: The provider.
        headers: What it returned.
        names: The names that are taken, in lower case.

    Raises:
        ConfigurationError: They aren't headers, or one is set elsewhere.
    """
    who = type(provider).__name__
    if not isinstance(headers, SecretHeaders):
        if not isinstance(headers, Mapping):
            raise ConfigurationError(
                f"{who}.headers() gave {type(headers).__name__}, "
                "not a mapping of header names to values."
            )
        headers = SecretHeaders(headers)
    for name, value in headers.items():
        if problem := header_problem(name, value):
            raise ConfigurationError(f"the header {name!r} that {who} gave {problem}.")
        if name.lower() in names:
            raise ConfigurationError(
                f"two auth providers set the header {name}; the second is {who}."
            )
        if name.lower() in RESERVED_HEADERS:
            raise ConfigurationError(
                f"{who} can't set the header {name}, which qsessions sets itself."
            )
        names.add(name.lower())
    return headers

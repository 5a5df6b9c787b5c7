"""`IBMCloudAuth`: a bearer token, from an API key that IAM exchanges or from the user."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar, Protocol, Self, TypeAlias

from qsessions.api.messages import (
    AuthProvider,
    SecretHeaders,
    Transport,
    header_problem,
    strip_frames,
)
from qsessions.auth.iam import TokenExchange
from qsessions.clock import Clock
from qsessions.errors import ConfigurationError

TokenSource: TypeAlias = str | Callable[[], str | Awaitable[str]]

_SCHEME = "Bearer "


class _Tokens(Protocol):
    """Where tokens come from."""

    async def token(self, transport: Transport) -> str: ...

    def refuse(self, token: str) -> bool: ...


class IBMCloudAuth(AuthProvider):
    """Sends `Authorization: Bearer <IAM access token>` and gets the token from IAM in exchange for an API key.

    The exchange happens once for any number of concurrent callers, in any number of clients, event loops and threads that share this
    object. At 80 % of a token's life it is renewed in the background while callers go on with the old one. A 401 costs one new exchange,
    however many calls it hits. If the exchange fails, the error says so with IAM's own code; the API key itself is never sent to the
    service.

    Args:
        api_key: An IBM Cloud API key.
        iam_url: IAM's base URL; by default the environment variable IAM_URL, else https://iam.cloud.ibm.com.
        clock: Time and chance, for tests.

    Raises:
        ConfigurationError: The key can't be sent in a header, or the URL is none.
    """

    header: ClassVar[str] = "Authorization"

    def __init__(
        self, api_key: str, iam_url: str | None = None, *, clock: Clock | None = None
    ) -> None:
        if problem := header_problem(self.header, api_key):
            # A traceback that shows locals must not show the key.
            del api_key
            raise ConfigurationError(f"the API key for IBMCloudAuth {problem}.")
        try:
            self._tokens: _Tokens = TokenExchange(api_key, iam_url, clock or Clock())
        except BaseException as error:
            del api_key, iam_url
            strip_frames(error)
            raise

    @classmethod
    def from_token(cls, token: TokenSource) -> Self:
        """Make a provider of a token that you have, or of a callable that yields one.

        Args:
            token: The token without "Bearer ", or a callable, plain or async, that gives one. It is called at every attempt, on the event
                loop: remember what is costly to get, and be async where it takes time.

        Raises:
            ConfigurationError: It is neither a callable nor a token that can be sent in a header.
        """
        if not callable(token) and (problem := header_problem(cls.header, token)):
            del token
            raise ConfigurationError(f"the token for IBMCloudAuth {problem}.")
        provider = cls.__new__(cls)
        provider._tokens = _GivenTokens(token)  # noqa: SLF001 - a second constructor of the same class
        return provider

    def __repr__(self) -> str:
        """Show the class, not the credential."""
        return f"{type(self).__name__}(***)"

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Give the header, after an exchange where no token is at hand.

        Raises:
            TokenExchangeFailed: IAM refused or failed, or its answer can't be read.
            ConnectionFailed: IAM can't be reached.
            CallTimeout: IAM didn't answer in time.
        """
        return SecretHeaders({self.header: _SCHEME + await self._tokens.token(transport)})

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Drop the refused token if it is still the current one; say whether a fresh one may do better."""
        return self._tokens.refuse(refused.get(self.header, "").removeprefix(_SCHEME))


class _GivenTokens:
    """Tokens from the user."""

    def __init__(self, source: TokenSource) -> None:
        self._is_fixed = isinstance(source, str)
        # A token within a function is shown by no repr, and pickled by nobody.
        self._source = source if callable(source) else lambda: source

    async def token(self, transport: Transport) -> str:
        given = self._source()
        if inspect.isawaitable(given):
            given = await given
        if isinstance(given, str):
            return given
        kind = type(given).__name__
        del given
        raise ConfigurationError(
            f"the callable given to IBMCloudAuth.from_token yielded {kind}, not text."
        )

    def refuse(self, token: str) -> bool:
        return not self._is_fixed

"""`IBMCloudAuth`: a bearer token, from an API key that IAM exchanges or from the user."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar, Self, TypeAlias

from qsessions.api.messages import (
    AuthProvider,
    SecretHeaders,
    Transport,
    header_problem,
    strips_frames,
)
from qsessions.auth.iam import TokenExchange
from qsessions.clock import Clock
from qsessions.errors import ConfigurationError

TokenSource: TypeAlias = str | Callable[[], str | Awaitable[str]]

_SCHEME = "Bearer "


class IBMCloudAuth(AuthProvider):
    """Sends `Authorization: Bearer <IAM access token>`; IAM gives the token for an API key.

    The exchange happens once for any number of concurrent callers, in any number of clients, event
    loops and threads that share this object. At 80 % of a token's life it is renewed in the
    background while callers go on with the old one. A 401 costs one new exchange, however many
    calls it hits. If the exchange fails, the error says so with IAM's own code; the API key itself
    is never sent to the service.

    Args:
        api_key: An IBM Cloud API key.
        iam_url: IAM's base URL; by default the environment variable IAM_URL, else
            https://iam.cloud.ibm.com.
        clock: Time and chance, for tests.

    Raises:
        ConfigurationError: The key can't be sent in a header, or the URL is not a base URL.
    """

    header: ClassVar[str] = "Authorization"

    @strips_frames
    def __init__(
        self, api_key: str, iam_url: str | None = None, *, clock: Clock | None = None
    ) -> None:
        if problem := header_problem(self.header, api_key):
            raise ConfigurationError(f"the API key for IBMCloudAuth {problem}.")
        self._tokens: TokenExchange | _UserTokens = TokenExchange(
            api_key, iam_url, clock or Clock()
        )

    @classmethod
    @strips_frames
    def from_token(cls, token: TokenSource) -> Self:
        """Return a provider of your own token, or of those that a callable yields.

        Args:
            token: The token without "Bearer ", or a callable, plain or async, that returns one. It
                is called at every attempt, on the event loop: cache what is costly to get, and make
                it async if it takes time.

        Raises:
            ConfigurationError: It is neither a callable nor a token that can be sent in a header.
        """
        if not callable(token) and (problem := header_problem(cls.header, token)):
            raise ConfigurationError(f"the token for IBMCloudAuth {problem}.")
        provider = cls.__new__(cls)
        provider._tokens = _UserTokens(token)  # noqa: SLF001 - a second constructor of this class
        return provider

    def __repr__(self) -> str:
        """Show the class, not the credential."""
        return f"{type(self).__name__}(***)"

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Return the header, after an exchange if there is no usable token.

        Raises:
            TokenExchangeFailed: IAM refused or failed, or its answer can't be read.
            ConnectionFailed: IAM can't be reached.
            CallTimeout: IAM didn't answer in time.
        """
        return SecretHeaders({self.header: _SCHEME + await self._tokens.token(transport)})

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Drop the refused token if it is the current one; return whether a fresh one may help."""
        return self._tokens.refuse(refused.get(self.header, "").removeprefix(_SCHEME))


class _UserTokens:
    """Tokens from the user."""

    def __init__(self, source: TokenSource) -> None:
        self._is_fixed = isinstance(source, str)
        # A token within a function is in no repr and can't be pickled.
        self._source = source if callable(source) else lambda: source

    async def token(self, transport: Transport) -> str:
        token = self._source()
        if inspect.isawaitable(token):
            token = await token
        if isinstance(token, str):
            return token
        kind = type(token).__name__
        del token
        raise ConfigurationError(
            f"the callable given to IBMCloudAuth.from_token yielded {kind}, not text."
        )

    def refuse(self, token: str) -> bool:
        return not self._is_fixed

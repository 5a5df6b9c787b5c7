"""What a test reads out of settings."""

from __future__ import annotations

from qsessions import IBMCloudAuth
from qsessions.auth.iam import TokenExchange
from qsessions.config.settings import Settings


def iam_url(settings: Settings) -> str:
    """Return where the key of the first provider is exchanged."""
    provider = settings.providers[0]
    assert isinstance(provider, IBMCloudAuth)
    assert isinstance(provider._tokens, TokenExchange)
    return str(provider._tokens._request.url).removesuffix("/identity/token")

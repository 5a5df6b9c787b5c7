"""Async-first SDK for IBM Quantum sessions: create, get, update and close them, and leave none running.

Names are resolved on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from qsessions._version import __version__ as __version__

# For type checkers; `_HOMES` says the same to the interpreter, and a test compares the two.
if TYPE_CHECKING:
    from qsessions.api.messages import (
        AuthProvider as AuthProvider,
        Request as Request,
        Response as Response,
        Transport as Transport,
    )
    from qsessions.api.outcome import CreateOutcomeUnknown as CreateOutcomeUnknown
    from qsessions.auth import (
        BackendAuthentication as BackendAuthentication,
        ExternalServiceToken as ExternalServiceToken,
        IBMCloudAPIKey as IBMCloudAPIKey,
        IBMCloudAuth as IBMCloudAuth,
        ServiceCRN as ServiceCRN,
    )
    from qsessions.client import AsyncSessionClient as AsyncSessionClient
    from qsessions.clock import Clock as Clock
    from qsessions.errors import (
        BadRequest as BadRequest,
        CallTimeout as CallTimeout,
        ClientClosed as ClientClosed,
        ConfigurationError as ConfigurationError,
        Conflict as Conflict,
        ConnectionFailed as ConnectionFailed,
        Forbidden as Forbidden,
        InstanceNotFound as InstanceNotFound,
        InvalidArgument as InvalidArgument,
        LedgerUnavailable as LedgerUnavailable,
        NotFound as NotFound,
        ProtocolError as ProtocolError,
        QSessionsError as QSessionsError,
        RateLimited as RateLimited,
        ResponseError as ResponseError,
        ServerError as ServerError,
        SessionLeftOpen as SessionLeftOpen,
        StateUnreachable as StateUnreachable,
        TokenExchangeFailed as TokenExchangeFailed,
        Unauthorized as Unauthorized,
    )
    from qsessions.events import (
        CreateCancelled as CreateCancelled,
        EndingFailed as EndingFailed,
        Event as Event,
        LedgerFailed as LedgerFailed,
        Observer as Observer,
        RequestFailed as RequestFailed,
        RequestSent as RequestSent,
        ResponseReceived as ResponseReceived,
        RetryPlanned as RetryPlanned,
        SessionClosed as SessionClosed,
        SessionCreated as SessionCreated,
        SessionDraining as SessionDraining,
        TokenRenewed as TokenRenewed,
    )
    from qsessions.http.retry import RetryPolicy as RetryPolicy
    from qsessions.ledger import (
        Ledger as Ledger,
        LedgerEntry as LedgerEntry,
        LedgerRecord as LedgerRecord,
        Liveness as Liveness,
        LocalLedger as LocalLedger,
        Owner as Owner,
        RecordState as RecordState,
    )
    from qsessions.models import (
        ApiVersion as ApiVersion,
        CreateSession as CreateSession,
        Mode as Mode,
        Session as Session,
        SessionState as SessionState,
        StateChange as StateChange,
        UpdateSession as UpdateSession,
        Workload as Workload,
    )
    from qsessions.session.close_all import Ending as Ending
    from qsessions.session.live import AsyncLiveSession as AsyncLiveSession
    from qsessions.sync.client import LiveSession as LiveSession, SessionClient as SessionClient

_HOMES = {
    "clock": ("Clock",),
    "auth": (
        "BackendAuthentication",
        "ExternalServiceToken",
        "IBMCloudAPIKey",
        "IBMCloudAuth",
        "ServiceCRN",
    ),
    "client": ("AsyncSessionClient",),
    "session.close_all": ("Ending",),
    "errors": (
        "BadRequest",
        "CallTimeout",
        "ClientClosed",
        "ConfigurationError",
        "Conflict",
        "ConnectionFailed",
        "Forbidden",
        "InstanceNotFound",
        "InvalidArgument",
        "LedgerUnavailable",
        "NotFound",
        "ProtocolError",
        "QSessionsError",
        "RateLimited",
        "ResponseError",
        "ServerError",
        "SessionLeftOpen",
        "StateUnreachable",
        "TokenExchangeFailed",
        "Unauthorized",
    ),
    "events": (
        "CreateCancelled",
        "EndingFailed",
        "Event",
        "LedgerFailed",
        "Observer",
        "RequestFailed",
        "RequestSent",
        "ResponseReceived",
        "RetryPlanned",
        "SessionClosed",
        "SessionCreated",
        "SessionDraining",
        "TokenRenewed",
    ),
    "ledger": (
        "Ledger",
        "LedgerEntry",
        "LedgerRecord",
        "Liveness",
        "LocalLedger",
        "Owner",
        "RecordState",
    ),
    "session.live": ("AsyncLiveSession",),
    "models": (
        "ApiVersion",
        "CreateSession",
        "Mode",
        "Session",
        "SessionState",
        "StateChange",
        "UpdateSession",
        "Workload",
    ),
    "api.outcome": ("CreateOutcomeUnknown",),
    "http.retry": ("RetryPolicy",),
    "sync.client": ("LiveSession", "SessionClient"),
    "api.messages": ("AuthProvider", "Request", "Response", "Transport"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - it reads the imports above instead


if not TYPE_CHECKING:  # so that a type checker tells a name that doesn't exist

    def __getattr__(name: str) -> object:
        """Import the module that a public name lives in, once."""
        if name not in _HOME:
            raise AttributeError(f"module 'qsessions' has no attribute {name!r}")
        value = getattr(importlib.import_module(f"qsessions.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

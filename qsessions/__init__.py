"""Async-first SDK for IBM Quantum sessions: create, get, update and close them, and leave none running.

Names are resolved on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# For type checkers; `_HOMES` says the same to the interpreter, and a test compares the two.
if TYPE_CHECKING:
    from qsessions.attempts import Clock as Clock
    from qsessions.auth import (
        BackendAuthentication as BackendAuthentication,
    )
    from qsessions.auth import (
        ExternalServiceToken as ExternalServiceToken,
    )
    from qsessions.auth import (
        IBMCloudAPIKey as IBMCloudAPIKey,
    )
    from qsessions.auth import (
        IBMCloudAuth as IBMCloudAuth,
    )
    from qsessions.auth import (
        ServiceCRN as ServiceCRN,
    )
    from qsessions.client import AsyncSessionClient as AsyncSessionClient
    from qsessions.errors import (
        BadRequest as BadRequest,
    )
    from qsessions.errors import (
        CallTimeout as CallTimeout,
    )
    from qsessions.errors import (
        ClientClosed as ClientClosed,
    )
    from qsessions.errors import (
        ConfigurationError as ConfigurationError,
    )
    from qsessions.errors import (
        Conflict as Conflict,
    )
    from qsessions.errors import (
        ConnectionFailed as ConnectionFailed,
    )
    from qsessions.errors import (
        CreateOutcomeUnknown as CreateOutcomeUnknown,
    )
    from qsessions.errors import (
        Forbidden as Forbidden,
    )
    from qsessions.errors import (
        InvalidArgument as InvalidArgument,
    )
    from qsessions.errors import (
        NotFound as NotFound,
    )
    from qsessions.errors import (
        ProtocolError as ProtocolError,
    )
    from qsessions.errors import (
        QSessionsError as QSessionsError,
    )
    from qsessions.errors import (
        RateLimited as RateLimited,
    )
    from qsessions.errors import (
        ResponseError as ResponseError,
    )
    from qsessions.errors import (
        ServerError as ServerError,
    )
    from qsessions.errors import (
        StateUnreachable as StateUnreachable,
    )
    from qsessions.errors import (
        TokenExchangeFailed as TokenExchangeFailed,
    )
    from qsessions.errors import (
        Unauthorized as Unauthorized,
    )
    from qsessions.events import (
        CreateCancelled as CreateCancelled,
    )
    from qsessions.events import (
        Event as Event,
    )
    from qsessions.events import (
        Observer as Observer,
    )
    from qsessions.events import (
        RequestFailed as RequestFailed,
    )
    from qsessions.events import (
        RequestSent as RequestSent,
    )
    from qsessions.events import (
        ResponseReceived as ResponseReceived,
    )
    from qsessions.events import (
        RetryPlanned as RetryPlanned,
    )
    from qsessions.events import (
        TokenRenewed as TokenRenewed,
    )
    from qsessions.live import AsyncLiveSession as AsyncLiveSession
    from qsessions.models import (
        ApiVersion as ApiVersion,
    )
    from qsessions.models import (
        CreateSession as CreateSession,
    )
    from qsessions.models import (
        Mode as Mode,
    )
    from qsessions.models import (
        Session as Session,
    )
    from qsessions.models import (
        SessionState as SessionState,
    )
    from qsessions.models import (
        StateChange as StateChange,
    )
    from qsessions.models import (
        UpdateSession as UpdateSession,
    )
    from qsessions.models import (
        Workload as Workload,
    )
    from qsessions.retry import RetryPolicy as RetryPolicy
    from qsessions.wire import (
        AuthProvider as AuthProvider,
    )
    from qsessions.wire import (
        Request as Request,
    )
    from qsessions.wire import (
        Response as Response,
    )
    from qsessions.wire import (
        Transport as Transport,
    )

_HOMES = {
    "attempts": ("Clock",),
    "auth": ("BackendAuthentication", "ExternalServiceToken", "IBMCloudAPIKey", "IBMCloudAuth", "ServiceCRN"),
    "client": ("AsyncSessionClient",),
    "errors": (
        "BadRequest",
        "CallTimeout",
        "ClientClosed",
        "ConfigurationError",
        "Conflict",
        "ConnectionFailed",
        "CreateOutcomeUnknown",
        "Forbidden",
        "InvalidArgument",
        "NotFound",
        "ProtocolError",
        "QSessionsError",
        "RateLimited",
        "ResponseError",
        "ServerError",
        "StateUnreachable",
        "TokenExchangeFailed",
        "Unauthorized",
    ),
    "events": (
        "CreateCancelled",
        "Event",
        "Observer",
        "RequestFailed",
        "RequestSent",
        "ResponseReceived",
        "RetryPlanned",
        "TokenRenewed",
    ),
    "live": ("AsyncLiveSession",),
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
    "retry": ("RetryPolicy",),
    "wire": ("AuthProvider", "Request", "Response", "Transport"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - it reads the imports above instead


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'qsessions' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"qsessions.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

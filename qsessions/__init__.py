"""Async-first SDK for IBM Quantum sessions: create, get, update, close them.

No session is left running. Names are resolved on first use, so that importing the package costs
next to nothing. Type checkers read `__init__.pyi` instead, which has the same names.
"""

from importlib import import_module

from qsessions._version import __version__ as __version__

_HOMES = {
    "api.messages": ("AuthProvider", "Request", "Response", "Transport"),
    "auth": (
        "BackendAuthentication",
        "ExternalServiceToken",
        "IBMCloudAPIKey",
        "IBMCloudAuth",
        "ServiceCRN",
    ),
    "client": ("AsyncSessionClient",),
    "clock": ("Clock",),
    "errors": (
        "BadRequest",
        "CallTimeout",
        "ClientClosed",
        "ConfigurationError",
        "Conflict",
        "ConnectionFailed",
        "CreateOutcomeUnknown",
        "Forbidden",
        "InstanceLookupFailed",
        "InstanceNotFound",
        "InvalidArgument",
        "LeaseLost",
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
        "WatchIncomplete",
    ),
    "events": (
        "ClientStopped",
        "CreateCancelled",
        "CreateFailed",
        "EndingFailed",
        "Event",
        "LedgerFailed",
        "OwnershipLost",
        "MaxUsageReached",
        "Observer",
        "RequestFailed",
        "RequestSent",
        "ResponseReceived",
        "RetryPlanned",
        "SessionClosed",
        "SessionCreated",
        "SessionDraining",
        "SessionEnded",
        "TokenRenewed",
    ),
    "http.raw": ("Raw",),
    "http.retry": ("RetryPolicy",),
    "ledger.lease": ("Lease", "LeaseState", "LeaseTerms", "LeasedLedger"),
    "ledger.local": ("LocalLedger",),
    "ledger.postgres": ("PostgresLedger",),
    "ledger.records": (
        "Ledger",
        "LedgerEntry",
        "LedgerRecord",
        "Liveness",
        "Owner",
        "RecordState",
    ),
    "ledger.verdicts": ("ReapDecision", "Verdict"),
    "usage": ("InstanceUsage", "Job", "UsagePeriod"),
    "models": (
        "ApiVersion",
        "CreateSession",
        "Instance",
        "Mode",
        "Session",
        "SessionState",
        "StateChange",
        "UpdateSession",
        "Workload",
    ),
    "reaper": ("Reaped", "forget", "reap"),
    "session.close_all": ("Ending",),
    "session.live": ("AsyncLiveSession",),
    "sync.client": ("SessionClient",),
    "sync.live": ("LiveSession",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll] - the stub has it


def __getattr__(name: str) -> object:
    """Import the module that a public name lives in, once."""
    if name not in _HOME:
        raise AttributeError(f"module 'qsessions' has no attribute {name!r}")
    value = getattr(import_module(f"qsessions.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def load_ipython_extension(shell: object) -> None:
    """Add `%%qsession` to a notebook: what `%load_ext qsessions` calls."""
    import_module("qsessions.integrations.ipython").load(shell)

# The public names, for type checkers; `__init__.py` has them for the interpreter, and a test
# compares the two.

from qsessions._version import __version__ as __version__
from qsessions.api.messages import (
    AuthProvider as AuthProvider,
    Request as Request,
    Response as Response,
    Transport as Transport,
)
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
    CreateOutcomeUnknown as CreateOutcomeUnknown,
    Forbidden as Forbidden,
    InstanceLookupFailed as InstanceLookupFailed,
    InstanceNotFound as InstanceNotFound,
    InvalidArgument as InvalidArgument,
    LeaseLost as LeaseLost,
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
    WatchIncomplete as WatchIncomplete,
)
from qsessions.events import (
    ClientStopped as ClientStopped,
    CreateCancelled as CreateCancelled,
    CreateFailed as CreateFailed,
    EndingFailed as EndingFailed,
    Event as Event,
    LedgerFailed as LedgerFailed,
    MaxUsageReached as MaxUsageReached,
    Observer as Observer,
    OwnershipLost as OwnershipLost,
    RequestFailed as RequestFailed,
    RequestSent as RequestSent,
    ResponseReceived as ResponseReceived,
    RetryPlanned as RetryPlanned,
    SessionClosed as SessionClosed,
    SessionCreated as SessionCreated,
    SessionDraining as SessionDraining,
    SessionEnded as SessionEnded,
    TokenRenewed as TokenRenewed,
)
from qsessions.http.raw import Raw as Raw
from qsessions.http.retry import RetryPolicy as RetryPolicy
from qsessions.ledger.lease import (
    Lease as Lease,
    LeasedLedger as LeasedLedger,
    LeaseState as LeaseState,
    LeaseTerms as LeaseTerms,
)
from qsessions.ledger.local import LocalLedger as LocalLedger
from qsessions.ledger.postgres import PostgresLedger as PostgresLedger
from qsessions.ledger.records import (
    Ledger as Ledger,
    LedgerEntry as LedgerEntry,
    LedgerRecord as LedgerRecord,
    Liveness as Liveness,
    Owner as Owner,
    RecordState as RecordState,
)
from qsessions.ledger.verdicts import ReapDecision as ReapDecision, Verdict as Verdict
from qsessions.models import (
    ApiVersion as ApiVersion,
    CreateSession as CreateSession,
    Instance as Instance,
    Mode as Mode,
    Session as Session,
    SessionState as SessionState,
    StateChange as StateChange,
    UpdateSession as UpdateSession,
    Workload as Workload,
)
from qsessions.reaper import Reaped as Reaped, forget as forget, reap as reap
from qsessions.session.close_all import Ending as Ending
from qsessions.session.live import AsyncLiveSession as AsyncLiveSession
from qsessions.sync.client import SessionClient as SessionClient
from qsessions.sync.live import LiveSession as LiveSession
from qsessions.usage import (
    InstanceUsage as InstanceUsage,
    Job as Job,
    UsagePeriod as UsagePeriod,
)

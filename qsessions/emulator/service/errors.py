"""The errors that the service answers with."""

# The service's own codes, as public sources list them.
BACKEND_NOT_FOUND = 1007
INSTANCE_NOT_FOUND = 1279
INTERNAL_ERROR = 1000
INVALID_BODY = 1208
INVALID_CREDENTIALS = 1201
JOB_NOT_FOUND = 1291
JOB_TOO_LONG = 1305
NOT_AUTHORISED = 1200
SESSION_CLOSED = 4001
SESSION_NOT_ON_PLAN = 1352
TOO_MANY_REQUESTS = 1202

# No public source has the codes of these. They are the emulator's, in a range that the service
# leaves free.
INVALID_REQUEST = 9400
NOT_FOUND = 9404
METHOD_NOT_ALLOWED = 9405
CONFLICT = 9409
USAGE_LIMIT_REACHED = 9410
PROGRAM_TOO_LARGE = 9413
PROGRAM_FAILED = 9422
JOB_FAILED = 9500


class ServiceError(Exception):
    """The service refuses a request.

    Over HTTP it becomes an answer with the service's error body; `Emulator.submit_job` raises it.

    Attributes:
        status: The answer's HTTP status.
        code: The service's error code.
        message: What is wrong.
        solution: What to do about it, if there is anything.
        retry_after: In how many seconds it may be tried again, where that is known.
    """

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        solution: str | None = None,
        *,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(f"{message} (status {status}, code {code})")
        self.status = status
        self.code = code
        self.message = message
        self.solution = solution
        self.retry_after = retry_after


def invalid(message: str) -> ServiceError:
    """Return a 400 for a query, a header or an id that breaks the contract."""
    return ServiceError(400, INVALID_REQUEST, message, "Correct the request and try again.")


def invalid_body(message: str) -> ServiceError:
    """Return a 400 for a body that breaks the contract."""
    return ServiceError(400, INVALID_BODY, message, "Correct the body and try again.")


def session_not_found() -> ServiceError:
    """Return the 404 for a session."""
    solution = "Check the session's id and the instance."
    return ServiceError(404, NOT_FOUND, "Session not found.", solution)

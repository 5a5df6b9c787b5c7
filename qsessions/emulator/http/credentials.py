"""Who may call: the credential schemes of the service, and its secrets."""

import hmac
import re
from collections.abc import Callable, Mapping
from random import Random

import attrs
from multidict import MultiMapping

from qsessions.emulator.http.iam import TokenIssuer
from qsessions.emulator.service.errors import (
    INSTANCE_NOT_FOUND,
    INVALID_CREDENTIALS,
    NOT_AUTHORISED,
    ServiceError,
    invalid,
)
from qsessions.emulator.service.instances import Instance, is_crn

# One that a user chose. Secrets are replaced in what is recorded: shorter ones would turn up by
# chance, and other characters are written in several ways.
_SECRET = re.compile(r"[A-Za-z0-9._~-]{8,}")

_KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@attrs.frozen(kw_only=True)
class Authenticator:
    """Checks the credentials of a request, and finds the instance (by CRN) that it is for.

    The contract asks for one of four credentials and the instance's CRN. Where it is silent:

    - Every credential that is sent must be right, not just one of them: a client that copies one
      key into all headers learns it here rather than later.
    - No credential, or no Service-CRN, is 401 with code 1200; a wrong one is 401 with 1201.
    - What follows counts once the credential has proved right. A Service-CRN that names no instance
      here (a deleted one, another region's, another account's) is 404 with code 1279, which says
      nothing about any session. One that is not a CRN is 403 with code 1200. Two are 400: either
      could be meant, and the credential is not to blame.

    Header names are looked up in any case.
    """

    api_key: str = attrs.field(repr=False)
    backend_token: str = attrs.field(repr=False)
    service_token: str = attrs.field(repr=False)
    instances: Mapping[str, Instance]
    tokens: TokenIssuer

    def check(self, headers: MultiMapping[str], now: float) -> Instance:
        """Return the instance of a request. Raises ServiceError, 400 to 404."""
        self.check_credentials(headers, now)
        crns = headers.getall("Service-CRN", [])
        if not any(crns):
            raise _not_authorised(401, "Send the instance's CRN in the Service-CRN header.")
        if len(crns) > 1:
            raise invalid("There is more than one Service-CRN header.")
        (crn,) = crns
        if not is_crn(crn):
            raise _not_authorised(403, "Check the Service-CRN header: it holds no CRN.")
        if crn not in self.instances:
            solution = "Check the instance's CRN, and that its region is the one that you call."
            raise ServiceError(404, INSTANCE_NOT_FOUND, "Instance not found.", solution)
        return self.instances[crn]

    def check_credentials(self, headers: Mapping[str, str], now: float) -> None:
        """Check the credentials alone. Raises ServiceError (401)."""
        checks: Mapping[str, Callable[[str], bool]] = {
            "Authorization": lambda value: self._authorizes(value, now),
            "Backend-Authentication": lambda value: same_secret(value, self.backend_token),
            "external-service-token": lambda value: same_secret(value, self.service_token),
        }
        verdicts = [check(headers[name]) for name, check in checks.items() if name in headers]
        if not verdicts:
            raise _not_authorised(401, "Send one of the service's credentials.")
        if not all(verdicts):
            solution = "Verify your credentials and try again."
            raise ServiceError(401, INVALID_CREDENTIALS, "Invalid credentials.", solution)

    def _authorizes(self, authorization: str, now: float) -> bool:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return self.tokens.accepts(value.strip(), now)
        return scheme.lower() == "apikey" and same_secret(value.strip(), self.api_key)


def new_key(random: Random, prefix: str) -> str:
    """Return a key of 44 characters, as real ones have, that begins with a prefix."""
    return prefix + "".join(random.choices(_KEY_LETTERS, k=44 - len(prefix)))


def checked_secret(secret: str, name: str) -> str:
    """Return a secret that a user chose. Raises ValueError, with its name, for one that is none."""
    if not _SECRET.fullmatch(secret):
        raise ValueError(f"{name} must be 8 or more letters, digits, or any of -._~")
    return secret


def same_secret(sent: str, expected: str) -> bool:
    """Return whether a secret is the expected one, in a time that doesn't tell how near it is."""
    return hmac.compare_digest(sent.encode(errors="surrogateescape"), expected.encode())


def _not_authorised(status: int, solution: str) -> ServiceError:
    message = "You are not authorized to perform this action."
    return ServiceError(status, NOT_AUTHORISED, message, solution)

"""Who may come in: the five credential schemes of the service."""

import hmac
from collections.abc import Mapping, Sequence

import attrs
from multidict import MultiMapping

from qsessions.emulator.http.iam import TokenOffice
from qsessions.emulator.service.errors import (
    INSTANCE_NOT_FOUND,
    INVALID_CREDENTIALS,
    NOT_AUTHORISED,
    Refusal,
    invalid,
)
from qsessions.emulator.service.instances import Instance, is_crn

AUTHORIZATION = "Authorization"
BACKEND_AUTHENTICATION = "Backend-Authentication"
EXTERNAL_SERVICE_TOKEN = "external-service-token"  # noqa: S105 - a header's name
SERVICE_CRN = "Service-CRN"


@attrs.frozen
class Secrets:
    """What the emulator takes as credentials, apart from the access tokens that it issues."""

    api_key: str = attrs.field(repr=False)
    backend_token: str = attrs.field(repr=False)
    service_token: str = attrs.field(repr=False)


class Gate:
    """Checks the credentials of a request, and tells which of the instances (by CRN) it is for.

    The contract asks for one of four credentials and the instance's CRN. Where it is silent:

    - Every credential that is sent must be right, not just one of them: a client that copies one key into all
      headers is told so here rather than found out later.
    - No credential, or no Service-CRN, is 401 with code 1200; a wrong one is 401 with 1201.
    - What follows counts once the credential has proved right. A Service-CRN that names no instance here (a deleted
      one, another region's, another account's) is 404 with code 1279, which says nothing of any session. One that is
      no CRN is 403 with code 1200. Two are 400: either could be meant, and the credential is not to blame.
    """

    def __init__(
        self, *, secrets: Secrets, instances: Mapping[str, Instance], tokens: TokenOffice
    ) -> None:
        self._secrets = secrets
        self._instances = instances
        self._tokens = tokens

    def check(self, headers: MultiMapping[str], now: float) -> Instance:
        """Let a request pass to its instance. Raises Refusal, 400 to 404. `headers` must look names up in any case."""
        self.check_credentials(headers, now)
        return self._instance(headers.getall(SERVICE_CRN, []))

    def check_credentials(self, headers: Mapping[str, str], now: float) -> None:
        """Let a request pass that concerns no instance. Raises Refusal, 401. For `headers` see `check`."""
        authorization = headers.get(AUTHORIZATION)
        backend = headers.get(BACKEND_AUTHENTICATION)
        service = headers.get(EXTERNAL_SERVICE_TOKEN)
        verdicts: list[bool] = []
        if authorization is not None:
            verdicts.append(self._authorizes(authorization, now))
        if backend is not None:
            verdicts.append(_same(backend, self._secrets.backend_token))
        if service is not None:
            verdicts.append(_same(service, self._secrets.service_token))
        if not verdicts:
            raise _not_authorised(401, "Send one of the service's credentials.")
        if not all(verdicts):
            solution = "Verify your credentials and try again."
            raise Refusal(401, INVALID_CREDENTIALS, "Invalid credentials.", solution)

    def _authorizes(self, authorization: str, now: float) -> bool:
        scheme, _, value = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return self._tokens.accepts(value.strip(), now)
        return scheme.lower() == "apikey" and _same(value.strip(), self._secrets.api_key)

    def _instance(self, crns: Sequence[str]) -> Instance:
        if not any(crns):
            raise _not_authorised(401, "Send the instance's CRN in the Service-CRN header.")
        if len(crns) > 1:
            raise invalid("There is more than one Service-CRN header.")
        (crn,) = crns
        if not is_crn(crn):
            raise _not_authorised(403, "Check the Service-CRN header: it holds no CRN.")
        if crn not in self._instances:
            solution = "Check the instance's CRN, and that its region is the one that you call."
            raise Refusal(404, INSTANCE_NOT_FOUND, "Instance not found.", solution)
        return self._instances[crn]


def _same(sent: str, expected: str) -> bool:
    return hmac.compare_digest(sent.encode(errors="surrogateescape"), expected.encode())


def _not_authorised(status: int, solution: str) -> Refusal:
    return Refusal(
        status, NOT_AUTHORISED, "You are not authorized to perform this action.", solution
    )

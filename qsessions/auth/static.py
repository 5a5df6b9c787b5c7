"""The four credentials that never change, each one header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from qsessions.api.messages import (
    AuthProvider,
    SecretHeaders,
    Transport,
    credential_problem,
    strips_frames,
)
from qsessions.errors import ConfigurationError
from qsessions.values import OfItsProcess

# The sixth field, the region, becomes part of a host name.
_CRN = re.compile(r"crn:(?:[^:]*:){4}([a-z0-9][a-z0-9-]*):[^:]*:.*")


def region_of(crn: str) -> str | None:
    """Return the region in a CRN, or None where it is not the CRN of an instance."""
    match = _CRN.fullmatch(crn)
    return None if match is None or credential_problem("Service-CRN", crn) else match[1]


class OwnProvider(OfItsProcess, AuthProvider):
    """The base of the library's own providers, each of one header. Its repr shows no credential."""

    header: ClassVar[str]

    def __repr__(self) -> str:
        """Show the class, not the credential."""
        return f"{type(self).__name__}(***)"


class StaticHeader(OwnProvider):
    """One header with a value that never changes. Its repr doesn't show the value.

    Args:
        value: The credential.

    Raises:
        ConfigurationError: It can't be a header's value: it is empty, has white space around it or
            a line end or NUL in it, or is not ASCII. Or it is in quotation marks, or a placeholder.
    """

    _prefix: ClassVar[str] = ""
    _advice: ClassVar[str | None] = None

    @strips_frames
    def __init__(self, value: str) -> None:
        if problem := credential_problem(self.header, value):
            raise ConfigurationError(
                f"the value for {type(self).__name__} {problem}.", solution=self._advice
            )
        self._headers = SecretHeaders({self.header: self._prefix + value})

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Return the header."""
        return self._headers

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Return False: there is no fresher credential."""
        return False


class IBMCloudAPIKey(StaticHeader):
    """Sends an IBM Cloud API key as it is: `Authorization: apikey <key>`.

    Prefer `IBMCloudAuth`, which sends a token that lives for an hour.
    """

    header = "Authorization"
    _prefix = "apikey "


class BackendAuthentication(StaticHeader):
    """Sends a token in the header `Backend-Authentication`."""

    header = "Backend-Authentication"


class ExternalServiceToken(StaticHeader):
    """Sends a token in the header `external-service-token`."""

    header = "external-service-token"


class ServiceCRN(StaticHeader):
    """Names the service instance: `Service-CRN: <CRN>`. Goes with any one of the other credentials.

    Args:
        value: The instance's CRN,
            `crn:v1:bluemix:public:quantum-computing:<region>:a/<account>:<guid>::`.

    Attributes:
        crn: The CRN.
        region: The region in the CRN.

    Raises:
        ConfigurationError: It is not a CRN, for example the instance's name.
    """

    header = "Service-CRN"
    _advice = (
        "Copy the CRN from the instance's page in IBM Cloud; it starts with "
        "crn:v1:bluemix:public:quantum-computing: and the region."
    )

    @strips_frames
    def __init__(self, value: str) -> None:
        super().__init__(value)
        region = region_of(value)
        if region is None:
            # The value isn't repeated: it may be the API key, in the wrong place.
            raise ConfigurationError(
                f"the value for {type(self).__name__} is not the CRN of a service instance"
                f"{'' if 'crn:' in value.lower() else '; a name is not enough'}.",
                solution=self._advice,
            )
        self.crn, self.region = value, region

    def __repr__(self) -> str:
        """Show the CRN, which is not secret."""
        return f"ServiceCRN({self.crn!r})"

    def __reduce__(self) -> tuple[Any, ...]:  # type: ignore[override]  # it holds no credential
        """Allow pickling: a CRN is not secret."""
        return type(self), (self.crn,)

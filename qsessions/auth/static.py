"""The four credentials that never change: each is one header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from qsessions.errors import ConfigurationError
from qsessions.wire import SecretHeaders, Transport, header_problem


class StaticHeader:
    """One header with a value that stays. Its repr doesn't show the value.

    Args:
        value: The credential.

    Raises:
        ConfigurationError: It can't be a header's value: empty, white space around it, a line end or NUL in it, or not ASCII.
    """

    header: ClassVar[str]
    _prefix: ClassVar[str] = ""

    def __init__(self, value: str) -> None:
        if problem := header_problem(self.header, value):
            # A traceback that shows locals must not show the credential.
            del value
            raise ConfigurationError(f"the value for {type(self).__name__} {problem}.")
        self._headers = SecretHeaders({self.header: self._prefix + value})

    def __repr__(self) -> str:
        """Show the class, not the credential."""
        return f"{type(self).__name__}(***)"

    async def headers(self, transport: Transport) -> Mapping[str, str]:
        """Give the header."""
        return self._headers

    def invalidate(self, refused: Mapping[str, str]) -> bool:
        """Say that there is no fresher credential."""
        return False


class IBMCloudAPIKey(StaticHeader):
    """Sends an IBM Cloud API key as it is: `Authorization: apikey <key>`. Prefer `IBMCloudAuth`, which sends a token of an hour's life."""

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
        value: The instance's CRN, `crn:v1:bluemix:public:quantum-computing:<region>:a/<account>:<guid>::`.

    Raises:
        ConfigurationError: It is no CRN, for example the instance's name.
    """

    header = "Service-CRN"

    def __init__(self, value: str) -> None:
        super().__init__(value)
        fields = value.split(":")
        self.crn = value
        # The sixth field becomes part of a host name.
        self.region = fields[5] if len(fields) >= 8 and fields[0] == "crn" else ""
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.region):
            raise ConfigurationError(
                f"{value[:200]!r} is no CRN of a service instance; its name is not enough.",
                solution="Copy the CRN from the instance's page in IBM Cloud; it starts with "
                "crn:v1:bluemix:public:quantum-computing: and the region.",
            )

    def __repr__(self) -> str:
        """Show the CRN, which is no secret."""
        return f"ServiceCRN({self.crn!r})"

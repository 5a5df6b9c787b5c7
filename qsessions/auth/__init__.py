"""The service's five credentials, each sent in one header and no other."""

from qsessions.auth.iam import IBMCloudAuth
from qsessions.auth.static import (
    BackendAuthentication,
    ExternalServiceToken,
    IBMCloudAPIKey,
    ServiceCRN,
    StaticHeader,
)

__all__ = [
    "BackendAuthentication",
    "ExternalServiceToken",
    "IBMCloudAPIKey",
    "IBMCloudAuth",
    "ServiceCRN",
    "StaticHeader",
]

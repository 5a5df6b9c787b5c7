"""The service's five credentials, each sent in its own header and no other."""

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

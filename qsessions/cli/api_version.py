"""Which API version calls ask for, why, and until when: for `doctor` and `versions`."""

from __future__ import annotations

from datetime import UTC, datetime

from qsessions.api.operations import (
    COVERED_VERSION,
    DESCRIBED_VERSION,
    DESCRIBED_VERSION_SUNSET,
    LATEST,
    default_version,
)


def why_version(option: str | None, now: float) -> str:
    """Return why calls ask for the version that they ask for.

    Args:
        option: What --api-version says, or None.
        now: The time in seconds since 1970.
    """
    if option == LATEST:
        return "the newest live one, as --api-version says"
    if option is not None:
        return "as --api-version says"
    described, tested = (
        "the default of the API's own description",
        "the newest version that qsessions is tested with",
    )
    sunset = datetime.fromtimestamp(DESCRIBED_VERSION_SUNSET, UTC).date().isoformat()
    if default_version(now) == DESCRIBED_VERSION:
        return f"{described}; from {sunset}, its sunset, it is {COVERED_VERSION}, {tested}"
    return f"{tested}; until {sunset}, its sunset, it was {DESCRIBED_VERSION}, {described}"

"""Which ledger `ledger=` or QSESSIONS_LEDGER means."""

from __future__ import annotations

from types import EllipsisType

from qsessions.clock import Clock
from qsessions.errors import ConfigurationError
from qsessions.ledger.records import Ledger

_FORMS = '"local" or the URL of a PostgreSQL database'
_OWN_DIRECTORY = "For a directory of your own, pass LocalLedger(path)."


def chosen_ledger(
    ledger: Ledger | str | EllipsisType | None, variable: str | None, clock: Clock
) -> Ledger | None:
    """Return a client's ledger, or None for none.

    Args:
        ledger: The argument; `...` for what the variable says.
        variable: The value of QSESSIONS_LEDGER, or None.
        clock: The time of a ledger that is made here.

    Raises:
        ConfigurationError: It is something else, or what it means needs an extra or a home folder.
    """
    name = "ledger="
    if ledger is ...:
        name, ledger = "QSESSIONS_LEDGER", variable
    if isinstance(ledger, str):
        return _named(name, ledger, clock)
    candidate: object = ledger
    if not (candidate is None or isinstance(candidate, Ledger)):
        raise ConfigurationError(
            f"{name} must be {_FORMS}, a ledger or None, not {type(candidate).__name__}.",
            solution=_OWN_DIRECTORY,
        )
    return ledger


def _named(name: str, text: str, clock: Clock) -> Ledger:
    # Late: most clients have none.
    if text == "local":
        from qsessions.ledger.local import LocalLedger

        return LocalLedger(clock=clock)
    if text.startswith(("postgresql://", "postgres://")):
        from qsessions.ledger.postgres import PostgresLedger

        return PostgresLedger(text, clock=clock)
    # It isn't repeated: it may be a URL with a password.
    raise ConfigurationError(
        f"{name} must be {_FORMS}, such as postgresql://user@host/database.",
        solution=_OWN_DIRECTORY if name == "ledger=" else f"Correct or unset {name}.",
    )

"""What the errors of PostgreSQL and its driver mean to callers."""

import asyncpg

from twofold.errors import TwofoldError, Unavailable, WiringError
from twofold.postgres_server import LOST, PostgresAddress, is_missing, passes

DRIVER_ERRORS = (*LOST, asyncpg.PostgresError)
"""All that a call of the driver raises."""

_NO_COLUMN = "42703"
"""The SQLSTATE of a column that does not exist."""


def translated(address: PostgresAddress, error: BaseException) -> TwofoldError:
    """The error to raise for one of the driver's while the app runs."""
    where = address.shown
    if isinstance(error, LOST):
        return Unavailable(f"PostgreSQL at {where} cannot be reached ({str(error) or type(error).__name__}).")
    if is_missing(error) or getattr(error, "sqlstate", None) == _NO_COLUMN:
        return Unavailable(
            f"Another process has changed or dropped a read model at {where}: {error}. Give all processes the same "
            "modules, and restart this one."
        )
    return Unavailable(f"PostgreSQL at {where} refused: {error}")


def translated_at_start(address: PostgresAddress, error: BaseException) -> TwofoldError:
    """The error to raise for one of the driver's before the app runs: what does not pass is a matter of wiring."""
    if passes(error):
        if isinstance(error, asyncpg.LockNotAvailableError):
            return Unavailable(f"The read models at {address.shown} have been locked for too long. Try again soon.")
        return translated(address, error)
    return WiringError(
        f"The read models at {address.shown} cannot be used: {error}. Name a database that exists, and a role that may "
        "connect to it and create a schema and tables in it."
    )

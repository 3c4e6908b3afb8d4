"""In charge of what the errors of PostgreSQL and its driver mean to callers."""

import asyncpg

from twofold.errors import TwofoldError, Unavailable, WiringError
from twofold.postgres_server import LOST, PostgresAddress, is_missing, passes

_CHANGED = "42703"
"""The SQLSTATE of a column that is not there."""


def refused(address: PostgresAddress, error: BaseException) -> TwofoldError:
    """The error to raise for one of the driver's while the app runs."""
    where = address.shown
    if isinstance(error, LOST):
        return Unavailable(f"PostgreSQL at {where} cannot be reached ({str(error) or type(error).__name__}).")
    if is_missing(error) or getattr(error, "sqlstate", None) == _CHANGED:
        return Unavailable(
            f"Another process has changed or dropped a read model at {where}: {error}. Let all processes have the same "
            "modules, and restart this one."
        )
    return Unavailable(f"PostgreSQL at {where} refused: {error}")


def refused_at_start(address: PostgresAddress, error: BaseException) -> TwofoldError:
    """The error to raise for one of the driver's before the app runs: what will not pass is wired wrongly."""
    if passes(error):
        if isinstance(error, asyncpg.LockNotAvailableError):
            return Unavailable(
                f"Something holds a lock on the read models at {address.shown} for too long. Try again in a moment."
            )
        return refused(address, error)
    return WiringError(
        f"The read models at {address.shown} cannot be used: {error}. Name a database that is there, and a role that "
        "may connect to it and make a schema and tables in it."
    )

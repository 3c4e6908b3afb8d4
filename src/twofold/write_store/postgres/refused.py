"""Errors of the driver and of the SQL functions, as errors of Twofold."""

from twofold.errors import TwofoldError, Unavailable
from twofold.postgres_server import LOST, PostgresAddress, is_missing
from twofold.write_store.postgres.connections import not_migrated

FORKED = "TF007"
_OTHER_EPOCH = frozenset({"TF001", "TF002"})


class AnotherEpoch(Unavailable):
    """The log is in another epoch than this process knew."""


def refused(address: PostgresAddress, error: BaseException, *, writes: bool) -> TwofoldError:
    """What to raise for an error of a call. `writes`: the call may have written."""
    if isinstance(error, LOST):
        reason = str(error) or type(error).__name__
        unknown = " The commands may have been written. Send them again under the same command ids."
        return Unavailable(f"PostgreSQL at {address.shown} cannot be reached ({reason}).{unknown if writes else ''}")
    if getattr(error, "sqlstate", None) in _OTHER_EPOCH:
        return AnotherEpoch(str(error))
    if is_missing(error):
        return not_migrated(address)
    return Unavailable(f"PostgreSQL at {address.shown} refused: {error}")

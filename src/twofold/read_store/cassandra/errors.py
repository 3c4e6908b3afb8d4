"""The errors of the Cassandra driver: which allow another attempt, and which error of ours each becomes."""

from twofold.errors import Unavailable
from twofold.read_store.cassandra.address import CassandraAddress
from twofold.read_store.cassandra.connection_driver import driver

REFUSED: tuple[type[Exception], ...] = (
    driver.RequestValidationException,
    driver.protocol.RequestValidationException,
)
"""The server has understood the request and refuses it: another attempt does not help."""

FAILED: tuple[type[Exception], ...] = (
    OSError,
    driver.cluster.NoHostAvailable,
    driver.connection.ConnectionException,
    driver.connection.ConnectionBusy,
    driver.pool.NoConnectionsAvailable,
    driver.protocol.ErrorMessage,
    driver.DriverException,
)
"""All errors of requests: those REFUSED, and those without a response or with "not now", which may have been done."""

_NO_SUCH_TABLE = ("unconfigured table", "does not exist", "unconfigured columnfamily")


class OutcomeUnknown(Unavailable):
    """A conditional statement got no response: it may have been carried out or not."""


class TableMissing(Unavailable):
    """A table or keyspace does not exist."""


class Forbidden(Unavailable):
    """The user lacks a permission."""


def is_retryable(error: Exception) -> bool:
    return isinstance(error, FAILED) and not isinstance(error, REFUSED)


def unavailable(address: CassandraAddress, error: Exception) -> Unavailable:
    if isinstance(error, driver.InvalidRequest) and any(text in str(error) for text in _NO_SUCH_TABLE):
        return TableMissing(
            f"Cassandra at {address.shown} has no such table: another process has dropped the read model, or rebuilt "
            f"its tables. Restart this process with the same modules as that one. ({error})"
        )
    if isinstance(error, driver.Unauthorized):
        return Forbidden(f"The user '{address.user}' may not do this at {address.shown}: {error}")
    if isinstance(error, REFUSED):
        return Unavailable(f"Cassandra at {address.shown} refused: {error}")
    return Unavailable(
        f"Cassandra at {address.shown} did not respond ({one_line(error)}). What was under way may have been written."
    )


def one_line(error: Exception) -> str:
    """What the driver says, in one line of bearable length."""
    return " ".join((str(error) or type(error).__name__).split())[:300]

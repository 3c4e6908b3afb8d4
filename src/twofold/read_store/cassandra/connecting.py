"""In charge of the connection to a cluster: made, given up, and what the driver's errors mean."""

import asyncio
import ssl
import threading
from typing import Any, NamedTuple

from twofold.errors import TwofoldError, Unavailable, WiringError
from twofold.read_store.cassandra.address import Address

try:
    from cassandra import (  # type: ignore[import-untyped]
        AuthenticationFailed,
        ConsistencyLevel,
        DriverException,
        InvalidRequest,
        ProtocolVersion,
        RequestValidationException,
        Unauthorized,
        auth,
        cluster,
        connection,
        policies,
        pool,
        protocol,
        query,
    )
    from cassandra.io.libevreactor import LibevConnection  # type: ignore[import-untyped]
except ImportError:
    raise
except Exception as error:
    # The driver raises DependencyException, which it cannot be asked for before it is imported.
    raise WiringError(
        "The Cassandra driver here was built without libev, without which it does not run on this Python. Install a "
        "wheel of cassandra-driver, or libev and then the driver."
    ) from error

# The driver has no type hints.
_auth: Any = auth
_cluster: Any = cluster
_connection: Any = connection
_policies: Any = policies
_pool: Any = pool
_protocol: Any = protocol
_query: Any = query
_Level: Any = ConsistencyLevel
_Reactor: Any = LibevConnection

SERIAL = "serial"
"""The profile for reads that see conditional statements which are half-way through."""

REFUSED: tuple[type[Exception], ...] = (RequestValidationException, _protocol.RequestValidationException)
"""The server has understood, and will not: to ask again does not help."""

LOST: tuple[type[Exception], ...] = (
    OSError,
    _cluster.NoHostAvailable,
    _connection.ConnectionException,
    _connection.ConnectionBusy,
    _pool.NoConnectionsAvailable,
    _protocol.ErrorMessage,
    DriverException,
)
"""No answer, or one that says "not now": it may have been done. Includes what is REFUSED: catch that first."""

_OLDEST = 4
_TRY = 3.0
_CANNOT_TELL = "Unable to perform"
_NO_SUCH_TABLE = ("unconfigured table", "does not exist", "unconfigured columnfamily")


class Connection(NamedTuple):
    """A cluster and the session on it. `datacenter` is the one whose copies are waited for."""

    cluster: Any
    session: Any
    datacenter: str
    nodes: int

    async def learn(self, keyspace: str) -> None:
        """Find out where the copies of a keyspace are, so that those are asked which have what is asked for."""
        await asyncio.to_thread(self.cluster.refresh_keyspace_metadata, keyspace)

    async def close(self) -> None:
        """Hang up, with all threads that belong to this connection."""
        await asyncio.to_thread(self.cluster.shutdown)


async def connect(address: Address) -> Connection:
    """Connect once. WiringError where that can never go well; else what the driver raises."""
    abandoned = threading.Event()
    made: list[Any] = []
    try:
        return await asyncio.to_thread(_connect, address, made, abandoned)
    except BaseException:
        abandoned.set()
        for each in made:
            # It waits for a thread that is still connecting.
            await asyncio.shield(asyncio.to_thread(each.shutdown))
        raise


def _connect(address: Address, made: list[Any], abandoned: threading.Event) -> Connection:
    near = _policies.DCAwareRoundRobinPolicy(address.datacenter)
    together = _cluster.Cluster(
        address.hosts,
        port=address.hosts[-1][1],
        protocol_version=ProtocolVersion.V5,
        connection_class=_Reactor,
        auth_provider=_auth.PlainTextAuthProvider(address.user, address.password) if address.user else None,
        ssl_context=ssl.create_default_context() if address.tls else None,
        execution_profiles=_profiles(near),
        reconnection_policy=_policies.ConstantReconnectionPolicy(0.5, max_attempts=None),
        connect_timeout=_TRY,
        control_connection_timeout=_TRY,
        max_schema_agreement_wait=30,
        # Of all that a cluster may keep, one keyspace is of interest: see `learn`.
        schema_metadata_enabled=False,
        monitor_reporting_enabled=False,
    )
    made.append(together)
    if abandoned.is_set():
        together.shutdown()
    try:
        session = together.connect()
    except _cluster.NoHostAvailable as error:
        _refuse(address, together, error)
        raise
    # Versions are ours: a statement without one must not carry this machine's clock either.
    session.use_client_timestamp = False
    hosts = together.metadata.all_hosts()
    for host in hosts:
        # Of a node that is away it may not be known.
        version = str(host.release_version or "4")
        if int(version.partition(".")[0]) < _OLDEST:
            raise WiringError(f"The Cassandra at {address.shown} is {version}. A read store needs {_OLDEST} or newer.")
    local = [host for host in hosts if host.datacenter == near.local_dc]
    return Connection(together, session, near.local_dc, len(local))


def _profiles(near: Any) -> dict[Any, Any]:
    each = {
        "load_balancing_policy": _policies.TokenAwarePolicy(near),
        "retry_policy": _policies.FallthroughRetryPolicy(),
        "serial_consistency_level": _Level.LOCAL_SERIAL,
        "row_factory": _query.tuple_factory,
    }
    levels = {_cluster.EXEC_PROFILE_DEFAULT: "LOCAL_QUORUM", SERIAL: "LOCAL_SERIAL"}
    return {
        name: _cluster.ExecutionProfile(consistency_level=getattr(_Level, level), **each)
        for name, level in levels.items()
    }


def _refuse(address: Address, together: Any, error: Any) -> None:
    """WiringError where to connect again would be in vain."""
    # Where nobody was asked, it is a list of whom there would have been.
    for cause in getattr(error.errors, "values", tuple[Any, ...])():
        if isinstance(cause, AuthenticationFailed) and _CANNOT_TELL not in str(cause):
            who = f"the user '{address.user}'" if address.user else "anybody without a name"
            raise WiringError(
                f"Cassandra at {address.shown} does not let {who} in. Write cassandra://user:password@host/keyspace."
            ) from error
        if isinstance(cause, _connection.ProtocolVersionUnsupported | DriverException) and "rotocol" in str(cause):
            raise WiringError(
                f"What answers at {address.shown} does not speak the native protocol 5: a read store needs Cassandra "
                f"4.0 or newer. It says: {cause}"
            ) from error
    there = sorted({str(host.datacenter) for host in together.metadata.all_hosts() if host.datacenter})
    if address.datacenter and there and address.datacenter not in there:
        raise WiringError(
            f"The cluster at {address.shown} has no datacenter '{address.datacenter}'. Name one in the URL: "
            f"?datacenter={' or '.join(there)}."
        ) from error


def is_missing(error: BaseException) -> bool:
    """Whether the server says that there is no such table or keyspace."""
    return isinstance(error, InvalidRequest) and any(each in str(error) for each in _NO_SUCH_TABLE)


def is_forbidden(error: BaseException) -> bool:
    """Whether the server says that the account may not do this."""
    return isinstance(error, Unauthorized)


def refusal(address: Address, error: BaseException) -> TwofoldError:
    """What to tell of a driver's error."""
    if isinstance(error, REFUSED):
        return Unavailable(f"Cassandra at {address.shown} refused: {error}")
    said = _said(error)
    return Unavailable(
        f"Cassandra at {address.shown} gave no answer ({said}). What was under way may have been written."
    )


def _said(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]

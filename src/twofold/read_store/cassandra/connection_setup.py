"""Opening a session on a cluster, once."""

import asyncio
import ssl
import threading
from typing import Any, NamedTuple

from twofold.errors import WiringError
from twofold.read_store.cassandra.address import CassandraAddress
from twofold.read_store.cassandra.connection_driver import driver

SERIAL = "serial"
"""The profile for reads that see conditional statements which are half-way through."""

_OLDEST = 4
_TIMEOUT = 3.0
_LOGIN_UNAVAILABLE = "Unable to perform"


class ClusterSession(NamedTuple):
    """A session of the driver. `nodes` counts those in the datacenter whose copies are waited for."""

    cluster: Any
    session: Any
    nodes: int


async def connect(address: CassandraAddress) -> ClusterSession:
    """Connect once. WiringError if another attempt cannot succeed; else the driver's error."""
    cancelled = threading.Event()
    clusters: list[Any] = []
    try:
        return await asyncio.to_thread(_connect, address, clusters, cancelled)
    except BaseException:
        cancelled.set()
        for cluster in clusters:
            # This waits for a thread that is still connecting.
            await asyncio.shield(asyncio.to_thread(cluster.shutdown))
        raise


def _connect(address: CassandraAddress, clusters: list[Any], cancelled: threading.Event) -> ClusterSession:
    local_first = driver.policies.DCAwareRoundRobinPolicy(address.datacenter)
    provider = driver.auth.PlainTextAuthProvider
    cluster = driver.cluster.Cluster(
        address.hosts,
        port=address.hosts[-1][1],
        protocol_version=driver.ProtocolVersion.V5,
        connection_class=driver.io.libevreactor.LibevConnection,
        auth_provider=provider(address.user, address.password) if address.user else None,
        ssl_context=ssl.create_default_context() if address.tls else None,
        execution_profiles=_profiles(local_first),
        reconnection_policy=driver.policies.ConstantReconnectionPolicy(0.5, max_attempts=None),
        connect_timeout=_TIMEOUT,
        control_connection_timeout=_TIMEOUT,
        max_schema_agreement_wait=30,
        # A cluster may have many keyspaces, and one of them is needed: see `locate_keyspace`.
        schema_metadata_enabled=False,
        monitor_reporting_enabled=False,
    )
    clusters.append(cluster)
    if cancelled.is_set():
        cluster.shutdown()
    try:
        session = cluster.connect()
    except driver.cluster.NoHostAvailable as error:
        _check_cause(address, cluster, error)
        raise
    # Rows carry their versions as timestamps: a statement without one must not carry this machine's clock either.
    session.use_client_timestamp = False
    hosts = cluster.metadata.all_hosts()
    for host in hosts:
        # The version of a node that is down may be unknown.
        version = str(host.release_version or "4")
        if int(version.partition(".")[0]) < _OLDEST:
            raise WiringError(f"The Cassandra at {address.shown} is {version}. A read store needs {_OLDEST} or newer.")
    local = [host for host in hosts if host.datacenter == local_first.local_dc]
    return ClusterSession(cluster, session, len(local))


def _profiles(local_first: Any) -> dict[Any, Any]:
    options = {
        "load_balancing_policy": driver.policies.TokenAwarePolicy(local_first),
        "retry_policy": driver.policies.FallthroughRetryPolicy(),
        "serial_consistency_level": driver.ConsistencyLevel.LOCAL_SERIAL,
        "row_factory": driver.query.tuple_factory,
    }
    levels = {
        driver.cluster.EXEC_PROFILE_DEFAULT: driver.ConsistencyLevel.LOCAL_QUORUM,
        SERIAL: driver.ConsistencyLevel.LOCAL_SERIAL,
    }
    return {name: driver.cluster.ExecutionProfile(consistency_level=level, **options) for name, level in levels.items()}


def _check_cause(address: CassandraAddress, cluster: Any, error: Any) -> None:
    """WiringError if another attempt to connect cannot succeed."""
    # `errors` is a list, of hosts, if none of them was asked.
    for cause in getattr(error.errors, "values", tuple[Any, ...])():
        if isinstance(cause, driver.AuthenticationFailed) and _LOGIN_UNAVAILABLE not in str(cause):
            user = f"the user '{address.user}'" if address.user else "connections without a user"
            raise WiringError(
                f"Cassandra at {address.shown} refuses {user}. Write cassandra://user:password@host/keyspace."
            ) from error
        if isinstance(cause, driver.connection.ProtocolVersionUnsupported | driver.DriverException) and (
            "rotocol" in str(cause)
        ):
            raise WiringError(
                f"The server at {address.shown} does not speak the native protocol 5: a read store needs Cassandra "
                f"4.0 or newer. It says: {cause}"
            ) from error
    known = sorted({str(host.datacenter) for host in cluster.metadata.all_hosts() if host.datacenter})
    if address.datacenter and known and address.datacenter not in known:
        raise WiringError(
            f"The cluster at {address.shown} has no datacenter '{address.datacenter}'. Name one in the URL: "
            f"?datacenter={' or '.join(known)}."
        ) from error

"""Statements to a Cassandra cluster: awaited, repeated while that may help, with the driver's errors as ours.

The driver works in its own thread and calls back from there; nothing here blocks the event loop. A statement whose
caller is cancelled runs on: its response is ignored, and sending it again is harmless.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from twofold.errors import Unavailable, WiringError
from twofold.read_store import refusals
from twofold.read_store.cassandra.address import CassandraAddress
from twofold.read_store.cassandra.connection_driver import driver
from twofold.read_store.cassandra.errors import FAILED, REFUSED, OutcomeUnknown, is_retryable, one_line, unavailable
from twofold.retrying import retry_until_deadline
from twofold.world import World

T = TypeVar("T")
CassandraRow = tuple[Any, ...]
Statement = Any

_SERIAL = "serial"
"""The profile for reads that see conditional statements which are half-way through."""

_OLDEST = 4
_CONNECT_TIMEOUT = 3.0
_LOGIN_UNAVAILABLE = "Unable to perform"
_TIMEOUT = 4.0
_DEFINITION_TIMEOUT = 30.0
_CONCURRENT = 32
_PAGE = 500
_token_hash = driver.metadata.Murmur3Token.hash_fn


class _ClusterSession(NamedTuple):
    """A session of the driver. `nodes` counts those in the datacenter whose copies are waited for."""

    cluster: Any
    session: Any
    nodes: int


class CassandraConnection:
    """Statements to one cluster, all of which may be repeated. After a failure each is, for up to `patience` seconds.

    Unavailable if that did not help, or the server refuses; TableMissing and Forbidden are kinds of it.
    """

    def __init__(self, address: CassandraAddress, cluster: _ClusterSession, world: World, patience: float) -> None:
        self.address = address
        self.session = cluster.session
        self.nodes = cluster.nodes
        self._patience = patience
        self._cluster = cluster
        self._world = world
        self._prepared: dict[str, asyncio.Future[Any]] = {}
        self._closed = False

    @classmethod
    async def open(cls, address: CassandraAddress, world: World, patience: float) -> "CassandraConnection":
        """Connect. WiringError if the user or the server do not fit; Unavailable if no server responds."""
        try:
            cluster = await retry_until_deadline(
                lambda left: _connect(address),
                world=world,
                patience=patience,
                retryable=lambda error: isinstance(error, FAILED),
                first=0.5,
            )
        except FAILED as error:
            raise unavailable(address, error) from error
        return cls(address, cluster, world, patience)

    async def close(self) -> None:
        """Close the connections and end all threads of the driver. Statements under way fail as Unavailable."""
        self._closed = True
        await asyncio.to_thread(self._cluster.cluster.shutdown)

    async def locate_keyspace(self) -> None:
        """Learn where the copies of the keyspace are, so that requests go to the nodes that have the data."""
        refresh = self._cluster.cluster.refresh_keyspace_metadata
        await self._try(lambda: asyncio.to_thread(refresh, self.address.keyspace))

    async def rows(self, cql: str, *parameters: Any, serial: bool = False) -> list[CassandraRow]:
        """All rows of a query. `serial` sees conditional statements that are half-way through, and completes them."""
        bound = await self.bind(cql, *parameters)
        bound.fetch_size = None
        rows, _ = await self._try(partial(self._execute, bound, profile=_SERIAL if serial else None))
        return rows

    async def pages(self, cql: str, *parameters: Any) -> AsyncGenerator[list[CassandraRow]]:
        """The rows of a query that reads a whole table, page by page."""
        bound = await self.bind(cql, *parameters)
        bound.fetch_size = _PAGE
        state: bytes | None = None
        while True:
            rows, state = await self._try(partial(self._execute, bound, state=state))
            yield rows
            if state is None:
                return

    async def bind(self, cql: str, *parameters: Any) -> Statement:
        return (await self.prepare(cql)).bind(parameters)

    async def prepare(self, cql: str) -> Any:
        prepared = self._prepared.get(cql)
        if prepared is None:
            # Callers that need it at the same time wait for the same request.
            prepared = self._prepared[cql] = asyncio.ensure_future(self._try(partial(self._prepare, cql)))
            prepared.add_done_callback(partial(self._forget_failed, cql))
        return await asyncio.shield(prepared)

    async def run(self, statements: Iterable[Statement]) -> list[CassandraRow]:
        """Run bound statements and batches, some at a time, in any order. Returns the rows of all of them."""
        waiting = iter(statements)
        rows: list[CassandraRow] = []

        async def work() -> None:
            for statement in waiting:
                rows_of_one, _ = await self._try(partial(self._execute, statement))
                rows.extend(rows_of_one)

        tasks = [asyncio.ensure_future(work()) for _ in range(_CONCURRENT)]
        try:
            await asyncio.gather(*tasks)
        finally:
            # If one has failed, the others stop.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return rows

    async def decide(self, statement: Statement) -> bool:
        """Try a conditional statement once, and return whether it was carried out. OutcomeUnknown without response."""
        try:
            (first, *_), _ = await self._execute(statement)
        except REFUSED as error:
            raise self._unavailable(error) from error
        except FAILED as error:
            raise OutcomeUnknown(
                f"Cassandra at {self.address.shown} did not say whether a change was made ({one_line(error)})."
            ) from error
        return bool(first[0])

    async def define(self, cql: str) -> None:
        """Change the schema. All nodes that are up agree on it afterwards."""
        await self._try(partial(self._execute, cql, seconds=_DEFINITION_TIMEOUT))

    async def retry(self, attempt: Callable[[], Awaitable[T]], retryable: Callable[[Exception], bool]) -> T:
        """The result of `attempt`, repeated for up to `patience` seconds after errors that are `retryable`."""
        return await retry_until_deadline(
            lambda left: attempt(), world=self._world, patience=self._patience, retryable=retryable
        )

    async def _try(self, attempt: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self.retry(attempt, lambda error: is_retryable(error) and not self._closed)
        except FAILED as error:
            raise self._unavailable(error) from error

    def _forget_failed(self, cql: str, prepared: "asyncio.Future[Any]") -> None:
        if prepared.cancelled() or prepared.exception() is not None:
            del self._prepared[cql]

    async def _prepare(self, cql: str) -> Any:
        return await self._world.within(_TIMEOUT, asyncio.to_thread(self.session.prepare, cql))

    async def _execute(
        self,
        statement: Statement,
        *,
        profile: str | None = None,
        seconds: float = _TIMEOUT,
        state: bytes | None = None,
    ) -> tuple[list[CassandraRow], bytes | None]:
        """Rows, and where the next page begins."""
        loop = asyncio.get_running_loop()
        response: asyncio.Future[tuple[list[CassandraRow], bytes | None]] = loop.create_future()
        options = {"execution_profile": profile} if profile else {}

        def resolve(setter: Callable[..., None], value: Any) -> None:
            # If the loop has ended, no caller waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: None if response.done() else setter(value))

        def succeed(rows: list[CassandraRow] | None) -> None:
            resolve(response.set_result, (rows or [], driver.cluster.ResultSet(request, rows).paging_state))

        def fail(error: BaseException) -> None:
            resolve(response.set_exception, error)

        request = self.session.execute_async(statement, timeout=seconds, paging_state=state, **options)
        request.add_callbacks(succeed, fail)
        return await response

    def _unavailable(self, error: Exception) -> Unavailable:
        return refusals.closed(self.address.shown) if self._closed else unavailable(self.address, error)


def token_of(statement: Statement) -> int:
    """The position on the ring of a bound statement's partition: mostly, neighbours there have the same replicas."""
    token: int = _token_hash(statement.routing_key)
    return token


def batch(statements: Iterable[Statement]) -> Statement:
    """Many statements in one request. Of those in one partition, readers see all or nothing."""
    together = driver.query.BatchStatement(driver.query.BatchType.UNLOGGED)
    for statement in statements:
        together.add(statement)
    return together


async def _connect(address: CassandraAddress) -> _ClusterSession:
    """Connect once. WiringError if another attempt cannot succeed; else the driver's error."""
    cancelled = threading.Event()
    clusters: list[Any] = []
    try:
        return await asyncio.to_thread(_connect_in_thread, address, clusters, cancelled)
    except BaseException:
        cancelled.set()
        for cluster in clusters:
            # This waits for a thread that is still connecting.
            await asyncio.shield(asyncio.to_thread(cluster.shutdown))
        raise


def _connect_in_thread(address: CassandraAddress, clusters: list[Any], cancelled: threading.Event) -> _ClusterSession:
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
        connect_timeout=_CONNECT_TIMEOUT,
        control_connection_timeout=_CONNECT_TIMEOUT,
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
    return _ClusterSession(cluster, session, len(local))


def _profiles(local_first: Any) -> dict[Any, Any]:
    options = {
        "load_balancing_policy": driver.policies.TokenAwarePolicy(local_first),
        "retry_policy": driver.policies.FallthroughRetryPolicy(),
        "serial_consistency_level": driver.ConsistencyLevel.LOCAL_SERIAL,
        "row_factory": driver.query.tuple_factory,
    }
    levels = {
        driver.cluster.EXEC_PROFILE_DEFAULT: driver.ConsistencyLevel.LOCAL_QUORUM,
        _SERIAL: driver.ConsistencyLevel.LOCAL_SERIAL,
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

"""Statements to a Cassandra cluster: awaited, repeated while that may help, with the driver's errors as ours.

The driver works in its own thread and calls back from there; nothing here blocks the event loop. A statement whose
caller is cancelled runs on: its response is ignored, and sending it again is harmless.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from twofold.errors import Unavailable
from twofold.read_store import refusals
from twofold.read_store.cassandra.address import CassandraAddress
from twofold.read_store.cassandra.connection_driver import driver
from twofold.read_store.cassandra.connection_setup import SERIAL, ClusterSession, connect
from twofold.read_store.cassandra.errors import FAILED, REFUSED, OutcomeUnknown, is_retryable, one_line, unavailable
from twofold.retrying import retry_until_deadline
from twofold.world import World

T = TypeVar("T")
CassandraRow = tuple[Any, ...]
Statement = Any

_TIMEOUT = 4.0
_DEFINITION_TIMEOUT = 30.0
_CONCURRENT = 32
_PAGE = 500
_token_hash = driver.metadata.Murmur3Token.hash_fn


class CassandraConnection:
    """Statements to one cluster, all of which may be repeated. After a failure each is, for up to `patience` seconds.

    Unavailable if that did not help, or the server refuses; TableMissing and Forbidden are kinds of it.
    """

    def __init__(self, address: CassandraAddress, cluster: ClusterSession, world: World, patience: float) -> None:
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
                lambda left: connect(address),
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
        rows, _ = await self._try(partial(self._execute, bound, profile=SERIAL if serial else None))
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
        """A statement with its parameters."""
        return (await self.prepare(cql)).bind(parameters)

    async def prepare(self, cql: str) -> Any:
        """A statement to bind parameters to."""
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

"""In charge of the driver: its statements awaited, tried again while that may help, and its errors told as ours.

The driver works in a thread of its own and calls back from there; nothing here blocks the event loop. Whoever is
cancelled leaves a statement that runs on: its answer goes to nobody, and to send it again is harmless.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from cassandra.cluster import ResultSet  # type: ignore[import-untyped]
from cassandra.metadata import Murmur3Token  # type: ignore[import-untyped]
from cassandra.query import BatchStatement, BatchType  # type: ignore[import-untyped]

from twofold.errors import TwofoldError, Unavailable
from twofold.read_store.cassandra.address import Address
from twofold.read_store.cassandra.connecting import (
    LOST,
    REFUSED,
    SERIAL,
    Connection,
    connect,
    is_forbidden,
    is_missing,
    refusal,
)
from twofold.world import World

T = TypeVar("T")
Row = tuple[Any, ...]
Statement = Any

_ResultSet: Any = ResultSet
_Token: Any = Murmur3Token
_Batch: Any = BatchStatement
_UNLOGGED: Any = BatchType.UNLOGGED

_ATTEMPT = 4.0
_DEFINITION = 30.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
_AT_ONCE = 32
_PAGE = 500


class Doubtful(Exception):
    """Nobody knows whether a conditional statement was carried out. The driver's error is chained."""


class Missing(Unavailable):
    """A table or keyspace is not there."""


class Forbidden(Unavailable):
    """The account may not do this."""


class Driver:
    """Statements to one cluster, all of which may be repeated. Each is tried again for `patience` seconds.

    Unavailable where that did not help, or the server refuses. Missing and Forbidden are kinds of it.
    """

    def __init__(self, address: Address, connection: Connection, world: World, patience: float) -> None:
        self.address = address
        self.session = connection.session
        self.nodes = connection.nodes
        self._patience = patience
        self._connection = connection
        self._world = world
        self._prepared: dict[str, Any] = {}
        self._preparing: dict[str, asyncio.Future[Any]] = {}
        self._closed = False

    @classmethod
    async def open(cls, address: Address, world: World, patience: float) -> "Driver":
        """Connect. WiringError where the account or the server does not do; Unavailable where nobody answers."""
        deadline = world.monotonic() + patience
        while True:
            try:
                return cls(address, await connect(address), world, patience)
            except LOST as error:
                if world.monotonic() + _LONGEST_PAUSE > deadline:
                    raise refusal(address, error) from error
            await world.sleep(_LONGEST_PAUSE)

    async def close(self) -> None:
        """Hang up. What is under way fails as Unavailable."""
        self._closed = True
        await self._connection.close()

    async def settle(self) -> None:
        """Take note of the keyspace, once it is there."""
        await self._again(partial(self._connection.learn, self.address.keyspace))

    async def rows(self, cql: str, *parameters: Any, serial: bool = False) -> list[Row]:
        """What a query answers, whole. `serial` sees conditional statements that are half-way through, too."""
        bound = (await self.prepare(cql)).bind(parameters)
        bound.fetch_size = None
        rows, _ = await self._again(partial(self._ask, bound, profile=SERIAL if serial else None))
        return rows

    async def pages(self, cql: str, *parameters: Any) -> AsyncGenerator[list[Row]]:
        """What a query that goes through a whole table answers, bit by bit."""
        bound = (await self.prepare(cql)).bind(parameters)
        bound.fetch_size = _PAGE
        state: bytes | None = None
        while True:
            rows, state = await self._again(partial(self._ask, bound, state=state))
            yield rows
            if state is None:
                return

    async def prepare(self, cql: str) -> Any:
        """A statement to bind parameters to."""
        if cql in self._prepared:
            return self._prepared[cql]
        # Whoever needs it at the same time waits with us, no longer than we do.
        under_way = self._preparing.get(cql)
        if under_way is None:
            under_way = self._preparing[cql] = asyncio.ensure_future(self._again(partial(self._prepare, cql)))
            under_way.add_done_callback(partial(self._keep, cql))
        return await asyncio.shield(under_way)

    async def run(self, statements: Iterable[Statement]) -> list[Row]:
        """Carry out bound statements and batches, some at a time, in any order. Returns the rows of all together."""
        waiting = iter(statements)
        found: list[Row] = []

        async def work() -> None:
            for statement in waiting:
                rows, _ = await self._again(partial(self._ask, statement))
                found.extend(rows)

        await _all(work() for _ in range(_AT_ONCE))
        return found

    async def decide(self, statement: Statement) -> bool:
        """Try a conditional statement once. Whether it was carried out; Doubtful where nobody knows."""
        try:
            (first, *_), _ = await self._ask(statement)
        except REFUSED as error:
            raise self._told(error) from error
        except LOST as error:
            raise Doubtful from error
        return bool(first[0])

    async def define(self, cql: str) -> None:
        """Change the schema. Every node that is up agrees to it then."""
        await self._again(partial(self._ask, cql, seconds=_DEFINITION))

    async def pause(self, before: float) -> float:
        """Wait a little longer than `before`; returns how long."""
        seconds = min(max(2 * before, _FIRST_PAUSE), _LONGEST_PAUSE)
        await self._world.sleep(seconds)
        return seconds

    def deadline(self) -> Callable[[], bool]:
        """A function that says whether the patience that begins now is at its end."""
        until = self._world.monotonic() + self._patience
        return lambda: self._world.monotonic() > until

    async def _again(self, attempt: Callable[[], Awaitable[T]]) -> T:
        over, pause = self.deadline(), 0.0
        while True:
            try:
                return await attempt()
            except REFUSED as error:
                raise self._told(error) from error
            except LOST as error:
                if over() or self._closed:
                    raise self._told(error) from error
            pause = await self.pause(pause)

    def _keep(self, cql: str, done: "asyncio.Future[Any]") -> None:
        del self._preparing[cql]
        if not done.cancelled() and done.exception() is None:
            self._prepared[cql] = done.result()

    async def _prepare(self, cql: str) -> Any:
        return await self._world.within(_ATTEMPT, asyncio.to_thread(self.session.prepare, cql))

    async def _ask(
        self, statement: Statement, *, profile: str | None = None, seconds: float = _ATTEMPT, state: bytes | None = None
    ) -> tuple[list[Row], bytes | None]:
        """Rows, and where the next page begins."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[list[Row], bytes | None]] = loop.create_future()
        options = {"execution_profile": profile} if profile else {}

        def settle(how: Callable[..., None], what: Any) -> None:
            # Where the loop has ended, nobody waits any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: None if answer.done() else how(what))

        def succeed(rows: list[Row] | None) -> None:
            settle(answer.set_result, (rows or [], _ResultSet(request, rows).paging_state))

        def fail(error: BaseException) -> None:
            settle(answer.set_exception, error)

        request = self.session.execute_async(statement, timeout=seconds, paging_state=state, **options)
        request.add_callbacks(succeed, fail)
        return await answer

    def _told(self, error: BaseException) -> TwofoldError:
        if self._closed:
            return Unavailable(f"The read store at {self.address.shown} was closed.")
        if is_missing(error):
            return Missing(
                f"Cassandra at {self.address.shown} has no such table: another process has dropped the read model, or "
                f"built it anew. Restart this one with the same modules. ({error})"
            )
        if is_forbidden(error):
            return Forbidden(f"The user '{self.address.user}' may not do this at {self.address.shown}: {error}")
        return refusal(self.address, error)


def token_of(statement: Statement) -> int:
    """Where on the ring a bound statement's partition is: neighbours there have the same replicas, mostly."""
    token: int = _Token.hash_fn(statement.routing_key)
    return token


def batch(statements: Iterable[Statement]) -> Statement:
    """Many statements in one request. Of those in one partition, readers see all or nothing."""
    together = _Batch(_UNLOGGED)
    for statement in statements:
        together.add(statement)
    return together


async def _all(works: Iterable[Awaitable[None]]) -> None:
    """Wait for all; where one fails, the others are given up."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

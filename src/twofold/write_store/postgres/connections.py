"""In charge of connections: made, handed out, and thrown away as soon as anything about them is in doubt."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from twofold.errors import WiringError
from twofold.world import World
from twofold.write_store.postgres.address import Address
from twofold.write_store.postgres.functions import Caller, Function, Row

Connection = asyncpg.Connection

LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What the driver says where the server's last words came while it was not listening for an answer.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
"""The connection is gone, or the server is going: whether the last request was carried out is unknown."""

_AGAIN_CLASSES = ("40", "53", "55", "57")
"""SQLSTATE classes of failures that pass: rolled back, out of resources, not in the right state, interrupted."""
_READ_ONLY = "25006"
_NOT_THERE = frozenset({"3F000", "42883", "42P01", "3D000"})
_WAITS_FOR_STANDBY = "SyncRepWaitForLSN"
"""The routine of the server that waits; its words differ by language."""
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5


def passes(error: BaseException) -> bool:
    """Whether it may go better next time."""
    if isinstance(error, LOST):
        return True
    state = str(getattr(error, "sqlstate", None) or "")
    # A primary that has become a standby refuses to write: the next connection looks for the new primary.
    return state[:2] in _AGAIN_CLASSES or state == _READ_ONLY


def is_missing(error: BaseException) -> bool:
    """Whether the database, the schema, or a function or table in it is not there."""
    return getattr(error, "sqlstate", None) in _NOT_THERE


def not_migrated(address: Address) -> WiringError:
    """What to say where there is no log."""
    return WiringError(
        f"There is no log at {address.shown}, or an old one. Make it with `twofold migrate --store URL`, as a role "
        "that may create schemas."
    )


async def connect(address: Address, seconds: float) -> Connection:
    """A new connection. OSError, or an error of asyncpg, within `seconds`."""
    connection = await asyncpg.connect(
        address.dsn, timeout=seconds, statement_cache_size=0 if address.pgbouncer else 100
    )
    connection.add_log_listener(_leave_if_not_replicated)
    return connection


class Connections:
    """Up to `size` connections, of which each caller has one for a single call.

    A connection is kept only if the call came to its end over it. A call that takes longer than `patience` seconds is
    cut off by closing the connection: a request to cancel could hit another one, or a commit that is half-way.
    """

    def __init__(self, address: Address, world: World, size: int, patience: float) -> None:
        self._address = address
        self._world = world
        self._patience = patience
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._caller = Caller(address.schema, plain=address.pgbouncer)
        self.opened = 0

    async def call(
        self, function: Function, *arguments: Any, check: Callable[[Sequence[Row]], None] | None = None
    ) -> Sequence[Row]:
        """The rows a function answers. What passes is tried again for `patience` seconds.

        `check` raises ConnectionError where they are not the answer to this request: then the connection is not used
        again. Every function may be repeated; the call may not be cancelled. asyncpg's errors, and OSError, where it
        fails.
        """
        deadline = self._world.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._connection() as connection:
                    rows = await self._caller.call(connection, function, *arguments)
                    if check is not None:
                        check(rows)
                    if connection.is_closed():
                        raise ConnectionError("the connection ended with the answer")
                    return rows
            except (*LOST, asyncpg.PostgresError) as error:
                if not passes(error) or self._world.monotonic() + pause > deadline:
                    raise
            await self._world.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def close(self) -> None:
        """Close all connections. No call is under way."""
        while self._idle:
            await close(self._idle.pop())

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[Connection]:
        if self._free.locked():
            # Behind calls that hang, nobody waits for ever.
            await self._world.within(self._patience, self._free.acquire())
        else:
            await self._free.acquire()
        try:
            connection = await self._usable()
            timer = asyncio.get_running_loop().call_later(self._patience, connection.terminate)
            try:
                yield connection
            except asyncpg.PostgresError as error:
                # The server has answered, and waits for the next request; unless it is about to go.
                if isinstance(error, LOST) or getattr(error, "sqlstate", "") == _READ_ONLY:
                    connection.terminate()
                raise
            except BaseException:
                connection.terminate()
                raise
            finally:
                timer.cancel()
                if not connection.is_closed():
                    self._idle.append(connection)
        finally:
            self._free.release()

    async def _usable(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        connection = await connect(self._address, self._patience)
        self.opened += 1
        if not self._address.pgbouncer:
            await _refuse_pooler(self._address, connection)
        return connection


async def _refuse_pooler(address: Address, connection: Connection) -> None:
    """WiringError behind a pooler: by the same name it may keep another log's prepared statement."""
    try:
        direct = await connection.fetchval("select pg_backend_pid()") == connection.get_server_pid()
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        direct = False
    except BaseException:
        connection.terminate()
        raise
    if not direct:
        connection.terminate()
        raise WiringError(f"There is a pooler before {address.shown}. Add pgbouncer=true to the store's URL.")


def _leave_if_not_replicated(connection: Any, message: asyncpg.PostgresLogMessage) -> None:
    """Hang up where the server says that a commit has not waited for its standby: somebody cancelled the waiting.

    The driver tells it before it hands out the answer, which looks like any other.
    """
    if message.server_source_function == _WAITS_FOR_STANDBY:
        connection.terminate()


async def close(connection: Connection) -> None:
    """End a connection, in order if it can be."""
    try:
        await connection.close(timeout=1.0)
    except (*LOST, asyncpg.PostgresError):
        connection.terminate()

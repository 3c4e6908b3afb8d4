"""PostgreSQL servers: their URLs, connections to them, and which of their errors pass."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from twofold.errors import WiringError
from twofold.retrying import retry_until_deadline
from twofold.world import World

T = TypeVar("T")

Connection = asyncpg.Connection

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_YES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    # What the driver raises if the server sent its last message while the driver was not waiting for one.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
"""The connection is gone, or the server is going: whether the last request was carried out is unknown."""

_AGAIN_CLASSES = ("40", "53", "55", "57")
"""SQLSTATE classes of passing failures: rolled back, out of resources, not in the right state, interrupted."""
_READ_ONLY = "25006"
_NOT_THERE = frozenset({"3F000", "42883", "42P01", "3D000"})
_WAITS_FOR_STANDBY = "SyncRepWaitForLSN"
"""The routine of the server that waits. (Its messages depend on the language of the server.)"""


class PostgresAddress(NamedTuple):
    """`dsn` is what the driver takes; with `pgbouncer` each statement may run on another server connection."""

    dsn: str
    schema: str
    pgbouncer: bool

    @property
    def shown(self) -> str:
        """The URL without its password, for messages."""
        parts = urlsplit(self.dsn)
        user, at, hosts = parts.netloc.rpartition("@")
        return f"{hosts if not at else user.partition(':')[0] + '@' + hosts}{parts.path}, schema {self.schema}"


def address_of(url: str, schema: str) -> PostgresAddress:
    """The parts of a `postgresql://` URL. WiringError, with the parameter and the fix, where one does not fit.

    `schema=NAME` (`schema` unless given) and `pgbouncer=true` are Twofold's; all others go to the driver.
    """
    try:
        parts = urlsplit(url)
        for host in parts.netloc.rpartition("@")[2].split(","):
            # Reading the port checks it: the driver's own error would contain part of a password.
            _ = urlsplit(f"//{host}").port
    except ValueError:
        raise WiringError(
            "The store's URL cannot be read. Write postgresql://user:password@host:port/database, and in the password "
            "%2F for '/', %3A for ':', %40 for '@', %23 for '#', %3F for '?', %25 for '%'."
        ) from None
    ours = {"schema": schema, "pgbouncer": "false"}
    others: list[tuple[str, str]] = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in ours:
            ours[name] = value
        else:
            others.append((name, value))
    if not _NAME.fullmatch(ours["schema"]) or ours["schema"].startswith("pg_"):
        raise WiringError(
            f"The schema {ours['schema']!r} in the store's URL does not fit: use small letters, digits, underscores, "
            "at most 63, not beginning with a digit or 'pg_'."
        )
    if ours["pgbouncer"] not in _YES:
        raise WiringError(f"pgbouncer={ours['pgbouncer']} in the store's URL is neither true nor false.")
    database = unquote(parts.path.removeprefix("/"))
    if not database:
        raise WiringError("The store's URL names no database. Write postgresql://user@host/database.")
    hosts = parts.netloc.rpartition("@")[2] + dict(others).get("host", "")
    if "," in hosts and "target_session_attrs" not in dict(others):
        # Of several servers the one that takes writes.
        others.append(("target_session_attrs", "read-write"))
    query = urlencode(others, quote_via=quote)
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, query, ""))
    return PostgresAddress(dsn, ours["schema"], _YES[ours["pgbouncer"]])


def passes(error: BaseException) -> bool:
    if isinstance(error, LOST):
        # An error of the driver itself (about an option, an argument) is a ValueError as well.
        return not isinstance(error, ValueError)
    state = str(getattr(error, "sqlstate", None) or "")
    # A primary that has become a standby refuses to write: the next connection looks for the new primary.
    return state[:2] in _AGAIN_CLASSES or state == _READ_ONLY


def is_missing(error: BaseException) -> bool:
    """Whether the database, the schema, or a function or table in it is not there."""
    return getattr(error, "sqlstate", None) in _NOT_THERE


async def connect(address: PostgresAddress, seconds: float) -> Connection:
    connection = await asyncpg.connect(
        address.dsn,
        timeout=seconds,
        statement_cache_size=0 if address.pgbouncer else 100,
    )
    connection.add_log_listener(_leave_if_not_replicated)
    return connection


async def close(connection: Connection) -> None:
    """Close a connection, orderly if possible."""
    try:
        await connection.close(timeout=1.0)
    except (*LOST, asyncpg.PostgresError):
        connection.terminate()


class PostgresConnections:
    """Up to `size` connections, of which each caller has one for as long as its work takes.

    A connection is used again only if the work on it has ended. Work that takes longer than `patience` seconds is
    stopped by closing the connection: a cancel request could hit another statement, or a commit in progress.
    `settings` are the server's, for these connections; none are made behind a pooler.
    """

    def __init__(
        self,
        address: PostgresAddress,
        world: World,
        size: int,
        patience: float,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._address = address
        self._world = world
        self._patience = patience
        self._settings = "; ".join(f"set {name} = {value}" for name, value in (settings or {}).items())
        self._free = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self.opened = 0

    async def run(self, work: Callable[[Connection], Awaitable[T]], longest: float | None = None) -> T:
        """The result of `work` on a connection. Passing failures are retried for `patience` seconds.

        So the work may be repeated; the call must not be cancelled. `longest` is how many seconds it may take if that
        is more than `patience`. asyncpg's errors, and OSError, where it fails.
        """
        return await self._retried(lambda: self._once(work, longest or self._patience))

    async def hold(self, prepare: Callable[[Connection], Awaitable[object]]) -> Connection:
        """A connection that is prepared, to be returned by `give_back`. Fails as `run` does."""
        return await self._retried(lambda: self._held(prepare))

    def give_back(self, connection: Connection) -> None:
        """Return a connection that was held. It is used again unless it is closed."""
        if not connection.is_closed():
            self._idle.append(connection)
        self._free.release()

    async def close(self) -> None:
        """Close all connections that are not held. No work is running."""
        while self._idle:
            await close(self._idle.pop())

    async def _retried(self, attempt: Callable[[], Awaitable[T]]) -> T:
        return await retry_until_deadline(
            lambda _: attempt(), world=self._world, patience=self._patience, retryable=passes
        )

    async def _once(self, work: Callable[[Connection], Awaitable[T]], longest: float) -> T:
        connection = await self._take()
        try:
            with kept_if_sound(connection, longest):
                result = await work(connection)
                if connection.is_closed():
                    raise ConnectionError("the connection ended with the answer")
                return result
        finally:
            self.give_back(connection)

    async def _held(self, prepare: Callable[[Connection], Awaitable[object]]) -> Connection:
        connection = await self._take()
        try:
            with kept_if_sound(connection, self._patience):
                await prepare(connection)
        except BaseException:
            # This ends whatever was begun on it.
            connection.terminate()
            self.give_back(connection)
            raise
        return connection

    async def _take(self) -> Connection:
        if self._free.locked():
            # Work that hangs must not block other callers for ever.
            try:
                await self._world.within(self._patience, self._free.acquire())
            except TimeoutError as error:
                raise TimeoutError(f"all connections have been busy for {self._patience:g} s") from error
        else:
            await self._free.acquire()
        try:
            return await self._usable()
        except BaseException:
            self._free.release()
            raise

    async def _usable(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        connection = await connect(self._address, self._patience)
        self.opened += 1
        try:
            with closed_after(self._patience, connection):
                await self._enter(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _enter(self, connection: Connection) -> None:
        if self._address.pgbouncer:
            return
        await _refuse_pooler(self._address, connection)
        if self._settings:
            await connection.execute(self._settings)


@contextmanager
def kept_if_sound(connection: Connection, patience: float) -> Generator[None]:
    """Closes a connection if the block fails in a way that leaves its state unknown, or takes too long."""
    with closed_after(patience, connection):
        try:
            yield
        except asyncpg.PostgresError as error:
            # The server has answered, and waits for the next request, unless it is shutting down.
            if isinstance(error, LOST) or getattr(error, "sqlstate", "") == _READ_ONLY:
                connection.terminate()
            raise
        except BaseException:
            connection.terminate()
            raise


@contextmanager
def closed_after(seconds: float, connection: Connection) -> Generator[None]:
    """Closes a connection if the block takes longer."""
    timer = asyncio.get_running_loop().call_later(seconds, connection.terminate)
    try:
        yield
    finally:
        timer.cancel()


async def _refuse_pooler(address: PostgresAddress, connection: Connection) -> None:
    """WiringError behind a pooler, where the same name may stand for another log's prepared statement."""
    try:
        direct = await connection.fetchval("select pg_backend_pid()") == connection.get_server_pid()
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError):
        direct = False
    if not direct:
        raise WiringError(f"There is a pooler before {address.shown}. Add pgbouncer=true to the store's URL.")


def _leave_if_not_replicated(connection: Any, message: asyncpg.PostgresLogMessage) -> None:
    """Close a connection whose commit did not wait for the standby, because an operator cancelled the wait.

    The driver reports it before it returns the answer, which looks like any other.
    """
    if message.server_source_function == _WAITS_FOR_STANDBY:
        connection.terminate()

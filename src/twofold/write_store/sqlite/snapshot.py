"""A log in SQLite as it is at one moment, read beside its writer."""

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager

import apsw

from twofold.sqlite_file import DiskErrors, copy_file, open_connection
from twofold.world import World
from twofold.write_store.port import LogIdentity
from twofold.write_store.sqlite.content import SqliteContent, use_of
from twofold.write_store.sqlite.migrate import schema_version
from twofold.write_store.sqlite.reader import Catalogue, LogReader


class SqliteLogSnapshot(SqliteContent):
    """The content of a log within one transaction for reading."""

    def __init__(self, connection: apsw.Connection, log_id: int, identity: LogIdentity, world: World) -> None:
        super().__init__(connection, log_id)
        self.identity = identity
        self.use = use_of(connection, log_id)
        self.head, self.chain = LogReader(connection, log_id, Catalogue()).stored_head()
        self.schema = schema_version(connection, connection.filename)
        self._connection_to_copy = connection
        self._world = world

    async def copy_to(self, path: str, on_progress: Callable[[int, int], None]) -> None:
        await copy_file(self._connection_to_copy, path, self._world, on_progress)


class SqliteClosedLog(SqliteLogSnapshot):
    """The content of a log to which only this process writes, and it does not write meanwhile."""

    def __init__(
        self,
        connection: apsw.Connection,
        log_id: int,
        identity: LogIdentity,
        world: World,
        write_seal: Callable[[str], None],
    ) -> None:
        super().__init__(connection, log_id, identity, world)
        self._write_seal = write_seal

    async def seal(self, place: str) -> None:
        self._write_seal(place)


Identify = Callable[[apsw.Connection], tuple[int, LogIdentity]]
"""Finds the log in a file: its number and its identity."""


@asynccontextmanager
async def reading_snapshot(path: str, identify: Identify, world: World) -> AsyncGenerator[SqliteLogSnapshot]:
    """The log in a file, in a transaction for reading that lasts as long as this context.

    In WAL mode it delays no writer. The write-ahead log grows meanwhile, because pages after the snapshot stay in it.
    """
    with _reading(path) as connection:
        yield SqliteLogSnapshot(connection, *identify(connection), world)


@asynccontextmanager
async def closed_log(
    path: str, identify: Identify, world: World, write_seal: Callable[[str], None]
) -> AsyncGenerator[SqliteClosedLog]:
    """The log in a file to which this process does not write meanwhile. `write_seal` ends it."""
    with _reading(path) as connection:
        yield SqliteClosedLog(connection, *identify(connection), world, write_seal)


@contextmanager
def _reading(path: str) -> Generator[apsw.Connection]:
    with DiskErrors(path), closing(open_connection(path, readonly=True)) as connection:
        # SQLite takes its snapshot at the first read after `begin`, not at `begin`.
        connection.execute("begin; select count(*) from logs").fetchall()
        yield connection

"""Log files that nothing writes any more: the parts of a backup. They are read without any other file beside them."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing

import apsw

from twofold.domain.events import Position
from twofold.errors import WiringError
from twofold.sqlite_file import DiskErrors, open_connection, open_immutable, seal
from twofold.world import World
from twofold.write_store.port import EmptyLog, LogIdentity
from twofold.write_store.sqlite.migrate import STEPS, apply_migrations, is_log, new_log_name, schema_version
from twofold.write_store.sqlite.moving import SqliteContent, importing
from twofold.write_store.sqlite.raw_events import raw_events
from twofold.write_store.sqlite.reader import Catalogue, LogReader
from twofold.write_store.verification import Damage, damages

SCHEMA = len(STEPS)
"""The version of the schema that this code writes and reads."""


class SealedLog(SqliteContent):
    """The content of a sealed log file. `close` it. WiringError where the file is not a log of this schema."""

    def __init__(self, path: str) -> None:
        self._path = path
        with DiskErrors(path):
            connection = open_immutable(path)
            try:
                log_id, identity, head, chain = _head_of(connection, path)
            except BaseException:
                connection.close()
                raise
        self.identity, self.head, self.chain, self.schema = identity, head, chain, SCHEMA
        super().__init__(connection, log_id)

    def damages(self, after: Position, chain: bytes) -> Iterator[Damage]:
        """What is wrong with the events after a position, where the log has `chain`."""
        with DiskErrors(self._path):
            yield from damages(raw_events(self._connection, self._log_id, after), after, chain, self.head)

    def close(self) -> None:
        """Release the file."""
        self._connection.close()


@asynccontextmanager
async def sealed(
    path: str, identity: LogIdentity, head: Position, chain: bytes, world: World
) -> AsyncGenerator[EmptyLog]:
    """A new log file to be filled. It is on disk and sealed when the context ends without error."""
    with DiskErrors(path), closing(open_connection(path)) as connection:
        connection.execute("pragma synchronous = full").fetchall()
        apply_migrations(connection, path, new_log_name("main", world))
        (log_id,) = connection.execute("select log_id from logs").fetchone() or (0,)
        async with importing(connection, log_id, path, identity, head, chain) as empty:
            yield empty
        seal(connection)


def _head_of(connection: apsw.Connection, path: str) -> tuple[int, LogIdentity, Position, bytes]:
    if not is_log(connection) or schema_version(connection, path) != SCHEMA:
        raise WiringError(
            f"{path} is not a log of schema version {SCHEMA}. Use the version of Twofold that made the backup, and "
            "migrate the restored log."
        )
    sql = "select count(*) from sqlite_schema where type in ('view', 'trigger')"
    logs = connection.execute("select count(*) from logs").get
    if connection.execute(sql).get or logs != 1:
        raise WiringError(f"{path} was not made by Twofold: it has views or triggers, or not exactly one log.")
    row: tuple[int, str, int] = next(connection.execute("select log_id, name, epoch from logs"))
    log_id, name, epoch = row
    sql = "select epoch, after from epochs where log_id = ? order by epoch"
    forks: list[tuple[int, int]] = list(connection.execute(sql, (log_id,)))
    head, chain = LogReader(connection, log_id, Catalogue()).stored_head()
    return log_id, LogIdentity(name, epoch, tuple(forks)), head, chain

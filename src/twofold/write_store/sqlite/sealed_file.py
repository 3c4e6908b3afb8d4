"""Log files that nothing writes any more: the parts of a backup. They are read without any other file beside them."""

import os
import shutil
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing

import apsw

from twofold.domain.events import Position
from twofold.errors import WiringError
from twofold.sqlite_file import DiskErrors, open_connection, open_immutable, seal
from twofold.sqlite_lock import create_private
from twofold.world import World
from twofold.write_store.migration import new_log_name
from twofold.write_store.port import LogIdentity
from twofold.write_store.sqlite.content import SqliteContent, identity_of, use_of
from twofold.write_store.sqlite.copying import SqliteLogCopy, begin_copy
from twofold.write_store.sqlite.migrate import STEPS, apply_migrations, is_log, schema_version
from twofold.write_store.sqlite.raw_events import raw_events
from twofold.write_store.sqlite.reader import Catalogue, LogReader
from twofold.write_store.verification import Damage, damages

SCHEMA = len(STEPS)
"""The version of the schema that this code writes and reads."""
_OLDEST = 2
"""The first version with a chain, which every backup has."""


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
        self.use = use_of(connection, log_id)
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
    path: str, identity: LogIdentity, after: Position, chain: bytes, world: World
) -> AsyncGenerator[SqliteLogCopy]:
    """A new log file to be filled with the events after a position, where the log has `chain`.

    It is complete, on disk and sealed when the context ends without error.
    """
    with DiskErrors(path), closing(open_connection(path)) as connection:
        connection.execute("pragma synchronous = full").fetchall()
        apply_migrations(connection, path, new_log_name("main", world))
        (log_id,) = next(connection.execute("select log_id from logs"))
        begin_copy(connection, log_id, identity, (after, chain), "")
        copy = SqliteLogCopy(connection, log_id)
        # One commit for all: nothing else reads the file before it is sealed.
        async with copy.transaction():
            yield copy
            await copy.complete(identity)
        seal(connection)


def up_to_date(path: str, folder: str) -> str:
    """The path of a sealed log file with the present schema: the same, or that of a migrated copy in a folder."""
    with DiskErrors(path), closing(open_immutable(path)) as connection:
        version = _version_of(connection, path)
    if version == SCHEMA:
        return path
    copy = os.path.join(folder, os.path.basename(path))
    create_private(copy)
    shutil.copyfile(path, copy)
    with DiskErrors(copy), closing(open_connection(copy)) as connection:
        try:
            apply_migrations(connection, copy, "")
        except (apsw.SQLError, apsw.ConstraintError, apsw.MismatchError) as error:
            raise WiringError(f"{path} has schema version {version} and cannot be migrated: {error}.") from error
        seal(connection)
    return copy


def _version_of(connection: apsw.Connection, path: str) -> int:
    """The version of the schema of a log file. WiringError where it is none, or this code cannot use it."""
    version = schema_version(connection, path) if is_log(connection) else 0
    if version < _OLDEST:
        raise WiringError(f"{path} is not a log of schema version {_OLDEST} to {SCHEMA}.")
    sql = "select count(*) from sqlite_schema where type in ('view', 'trigger')"
    logs = connection.execute("select count(*) from logs").get
    if connection.execute(sql).get or logs != 1:
        raise WiringError(f"{path} was not made by Twofold: it has views or triggers, or not exactly one log.")
    return version


def _head_of(connection: apsw.Connection, path: str) -> tuple[int, LogIdentity, Position, bytes]:
    if _version_of(connection, path) != SCHEMA:
        raise WiringError(f"{path} is not a log of schema version {SCHEMA}.")
    log_id: int = next(connection.execute("select log_id from logs"))[0]
    head, chain = LogReader(connection, log_id, Catalogue()).stored_head()
    return log_id, identity_of(connection, log_id), head, chain

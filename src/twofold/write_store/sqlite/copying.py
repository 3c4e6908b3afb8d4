"""A log in SQLite that is a copy of another one, until it is complete."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import apsw
import msgspec

from twofold.domain.events import Position, RecordedEvent
from twofold.errors import WiringError
from twofold.sqlite_file import DiskErrors, open_connection, refuse_network_file_system, refuse_old_sqlite
from twofold.sqlite_lock import FileLock
from twofold.world import World
from twofold.write_store.chain import chain_start
from twofold.write_store.checksums import command_checksum, epoch_checksums, row_checksum
from twofold.write_store.log_content import RememberedCommand
from twofold.write_store.migration import new_log_name
from twofold.write_store.port import LogIdentity, LogRow
from twofold.write_store.sqlite.content import SqliteContent, identity_of, use_of
from twofold.write_store.sqlite.migrate import apply_migrations
from twofold.write_store.sqlite.packing import PayloadPacker
from twofold.write_store.sqlite.reader import EVERY_EVENT, Catalogue, LogReader

_HAS_CONTENT = """
select position + epoch - 1 + exists (select 1 from commands where log_id = ?1)
       + exists (select 1 from rows where log_id = ?1)
from logs where log_id = ?1
"""
_BEGIN = """
update logs set name = ?2, epoch = ?3, position = ?4, chain = ?5, use = 'copy', place = ?6, settled = null
where log_id = ?1
"""
# A copy that was settled still is.
_GO_ON = """
update logs set settled = case when use = 'copy' then settled end, use = 'copy', place = ? where log_id = ?
"""
_EVENT = """
insert into events (log_id, position, type_id, version, payload, envelope, tags, chain) values (?, ?, ?, ?, ?, ?, ?, ?)
"""
_TAG = "insert into event_tags (log_id, tag, type_id, position) values (?, ?, ?, ?)"
_COMMAND = """
insert into commands (log_id, command_id, request_hash, position, count, recorded_at, checksum)
values (?, ?, ?, ?, ?, ?, ?)
on conflict (log_id, command_id) do update
   set request_hash = excluded.request_hash, position = excluded.position, count = excluded.count,
       recorded_at = excluded.recorded_at, checksum = excluded.checksum,
       arrival = (select max(arrival) + 1 from commands)
 where (excluded.position, excluded.recorded_at) > (commands.position, commands.recorded_at)
"""
_ROW = """
insert into rows (log_id, space, key, value, version, checksum) values (?, ?, ?, ?, ?, ?)
on conflict (log_id, space, key)
do update set value = excluded.value, version = excluded.version, checksum = excluded.checksum
"""
# They keep the sums beside the head. Only this connection has them.
_TRIGGERS = """
create temp trigger {table}_added after insert on main.{table} begin
    update logs set {table}_checksum = {table}_checksum + new.checksum where log_id = new.log_id;
end;
create temp trigger {table}_changed after update of checksum on main.{table} begin
    update logs set {table}_checksum = {table}_checksum + new.checksum - old.checksum where log_id = new.log_id;
end;
create temp trigger {table}_deleted after delete on main.{table} begin
    update logs set {table}_checksum = {table}_checksum - old.checksum where log_id = old.log_id;
end;
"""
# One scan of the table: by the index it would look up every row, while commands wait.
_NEWEST_TO_THE_END = """
update commands set arrival = (select max(arrival) + 1 from commands)
where arrival = (
    select arrival from commands not indexed where log_id = ? order by recorded_at desc, arrival desc limit 1
)
"""


class SqliteLogCopy(SqliteContent):
    """A log that is being filled, over a connection that writes."""

    def __init__(self, connection: apsw.Connection, log_id: int) -> None:
        super().__init__(connection, log_id)
        self.identity = identity_of(connection, log_id)
        self.place = use_of(connection, log_id).place
        sql = "select position, chain, settled from logs where log_id = ?"
        row: tuple[Position, bytes, Position | None] = next(connection.execute(sql, (log_id,)))
        self.head: Position = row[0]
        self.chain: bytes = row[1]
        self.settled: Position | None = row[2]
        sql = "select name, type_id from event_types where log_id = ?"
        self._types: dict[str, int] = dict(connection.execute(sql, (log_id,)))
        self._packer = PayloadPacker(connection, log_id)
        for table in ("commands", "rows"):
            connection.execute(_TRIGGERS.replace("{table}", table)).fetchall()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        before: tuple[Position, bytes, Position | None] = self.head, self.chain, self.settled
        types = dict(self._types)
        try:
            # A savepoint within another transaction; a transaction otherwise.
            with self._connection:
                yield
        except BaseException:
            self.head, self.chain, self.settled = before
            self._types = types
            self._packer.reload()
            # It may have read dictionaries that are not there any more.
            self._reader = LogReader(self._connection, self._log_id, Catalogue())
            raise

    async def add_events(self, events: Sequence[RecordedEvent]) -> None:
        log_id = self._log_id
        rows: list[tuple[int, int, int, int, bytes, bytes, bytes, bytes]] = []
        tags: list[tuple[int, str, int, int]] = []
        for event in events:
            type_id = self._types.get(event.type) or self._add_type(event.type)
            stored = event.stored_envelope
            payload = self._packer.pack(type_id, event.version, event.payload)
            rows.append(
                (log_id, event.position, type_id, event.version, payload, stored.head, stored.tags, event.chain)
            )
            tags += [(log_id, tag, type_id, event.position) for tag in (EVERY_EVENT, *event.tags)]
        self._connection.executemany(_EVENT, rows)
        self._connection.executemany(_TAG, tags)
        self._packer.add_dictionaries()
        if events:
            self.head, self.chain, self.settled = events[-1].position, events[-1].chain, None
            sql = "update logs set position = ?, chain = ?, settled = null where log_id = ?"
            self._connection.execute(sql, (self.head, self.chain, log_id))

    async def add_commands(self, commands: Sequence[RememberedCommand]) -> int:
        values = [msgspec.structs.astuple(command) for command in commands]
        rows = [(self._log_id, *each, command_checksum(*each)) for each in values]
        added = 0
        async with self.transaction():
            for row in rows:
                self._connection.execute(_COMMAND, row)
                added += self._connection.changes()
            if added:
                self._unsettle()
            return added

    async def set_rows(self, space: str, rows: Mapping[str, LogRow | None]) -> None:
        written = [
            (self._log_id, space, key, row.value, row.version, row_checksum(space, key, row.version, row.value))
            for key, row in rows.items()
            if row is not None
        ]
        deleted = [(self._log_id, space, key) for key, row in rows.items() if row is None]
        async with self.transaction():
            self._connection.executemany(_ROW, written)
            sql = "delete from rows where log_id = ? and space = ? and key = ?"
            self._connection.executemany(sql, deleted)
            if rows:
                self._unsettle()

    async def settle(self, identity: LogIdentity) -> None:
        self._identify(identity)
        self._connection.execute("update logs set settled = position where log_id = ?", (self._log_id,))
        self.settled = self.head

    async def complete(self, identity: LogIdentity) -> None:
        async with self.transaction():
            # The clock of command ids goes on from the one that came last, whichever process copied it.
            self._connection.execute(_NEWEST_TO_THE_END, (self._log_id,))
            self._identify(identity)
            sql = "update logs set use = 'log', place = '', settled = null where log_id = ?"
            self._connection.execute(sql, (self._log_id,))

    def _unsettle(self) -> None:
        if self.settled is not None:
            self._connection.execute("update logs set settled = null where log_id = ?", (self._log_id,))
            self.settled = None

    def _identify(self, identity: LogIdentity) -> None:
        log_id = self._log_id
        self._connection.executemany(
            "insert into epochs (log_id, epoch, after, checksum) values (?, ?, ?, ?) on conflict do nothing",
            [
                (log_id, *fork, checksum)
                for fork, checksum in zip(identity.forks, epoch_checksums(identity.forks), strict=True)
            ],
        )
        self._connection.execute("update logs set epoch = ? where log_id = ?", (identity.epoch, log_id))
        self.identity = identity

    def _add_type(self, name: str) -> int:
        self._types[name] = number = len(self._types) + 1
        insert = "insert into event_types (log_id, type_id, name) values (?, ?, ?)"
        self._connection.execute(insert, (self._log_id, number, name))
        return number


def begin_copy(
    connection: apsw.Connection, log_id: int, identity: LogIdentity, start: tuple[Position, bytes], place: str
) -> None:
    """Make an empty log a copy of another one, which is at a place, and whose events begin after a position."""
    with connection:
        connection.execute("delete from event_types where log_id = ?", (log_id,))
        connection.execute("delete from payload_dictionaries where log_id = ?", (log_id,))
        connection.execute(_BEGIN, (log_id, identity.log, identity.epoch, *start, place))


@asynccontextmanager
async def opened_copy(
    path: str, identity: LogIdentity | None, place: str, world: World
) -> AsyncGenerator[SqliteLogCopy]:
    """The copy in a file of the log `identity` at a place, begun in a new file or continued. None: only continued.

    WiringError where the file has anything else, or another process has it open.
    """
    refuse_old_sqlite()
    refuse_network_file_system(path)
    if identity is None:
        _refuse_missing(path)
    with DiskErrors(path):
        lock = FileLock(path)
        try:
            with closing(open_connection(path)) as connection:
                connection.execute("pragma synchronous = full; pragma secure_delete = on").fetchall()
                apply_migrations(connection, path, new_log_name("main", world))
                (log_id,) = next(connection.execute("select log_id from logs"))
                _enter(connection, log_id, path, identity, place)
                yield SqliteLogCopy(connection, log_id)
        finally:
            lock.release()


def _refuse_missing(path: str) -> None:
    if not Path(path).exists():
        raise WiringError(f"There is no copy in {path}.")


def _enter(connection: apsw.Connection, log_id: int, path: str, identity: LogIdentity | None, place: str) -> None:
    present, used = identity_of(connection, log_id), use_of(connection, log_id)
    if identity is None:
        if used.use != "copy":
            raise WiringError(f"{path} is not a copy that is to be completed.")
        return
    if used.use == "log" and not connection.execute(_HAS_CONTENT, (log_id,)).get:
        begin_copy(connection, log_id, identity, (0, chain_start(identity.log)), place)
    elif used.use == "log" or present.log != identity.log:
        raise WiringError(f"The log {path} is not empty. Move into a new file.")
    else:
        # A copy that is continued, or the log that was moved before and is now moved back.
        connection.execute(_GO_ON, (place, log_id))

"""Moving a log out of SQLite, or into it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import apsw
import msgspec

from twofold.domain.event_query import ALL_EVENTS, AppendCondition
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import WiringError
from twofold.sqlite_file import DiskErrors
from twofold.write_store.port import EmptyLog, LogIdentity, LogRow, RememberedCommand
from twofold.write_store.sqlite.reader import EVERY_EVENT, Catalogue, LogReader

_COMMANDS = """
select command_id, request_hash, position, count, recorded_at from commands
where log_id = ? and command_id > ? order by command_id limit ?
"""
_CONTENT_COUNT = """
select position + (select count(*) from commands where log_id = ?1) + (select count(*) from rows where log_id = ?1)
       + (select count(*) from epochs where log_id = ?1)
from logs where log_id = ?1
"""


class SqliteContent:
    """The content of a log, read over one connection."""

    def __init__(self, connection: apsw.Connection, log_id: int) -> None:
        self._connection = connection
        self._log_id = log_id
        self._reader = LogReader(connection, log_id, Catalogue())

    async def events(self, after: Position, limit: int) -> Sequence[RecordedEvent]:
        return self._reader.slice([AppendCondition(ALL_EVENTS, after)], limit).events

    async def commands(self, after: str, limit: int) -> Sequence[RememberedCommand]:
        return [RememberedCommand(*row) for row in self._connection.execute(_COMMANDS, (self._log_id, after, limit))]

    async def spaces(self) -> Sequence[str]:
        sql = "select distinct space from rows where log_id = ? order by space"
        return [space for (space,) in self._connection.execute(sql, (self._log_id,))]

    async def rows(self, space: str, after: str | None, limit: int) -> Mapping[str, LogRow]:
        return self._reader.rows_after(space, after, limit)


class SqliteEmptyLog(SqliteContent):
    """A log that is filled within one transaction."""

    def __init__(self, connection: apsw.Connection, log_id: int) -> None:
        super().__init__(connection, log_id)
        self._types: dict[str, int] = {}

    async def add_events(self, events: Sequence[RecordedEvent]) -> None:
        log_id = self._log_id
        rows: list[tuple[int, int, int, int, bytes, bytes, bytes, bytes]] = []
        tags: list[tuple[int, str, int, int]] = []
        for event in events:
            type_id = self._types.get(event.type) or self._add_type(event.type)
            stored = event.stored_envelope
            rows.append(
                (log_id, event.position, type_id, event.version, event.payload, stored.head, stored.tags, event.chain)
            )
            tags += [(log_id, tag, type_id, event.position) for tag in (EVERY_EVENT, *event.tags)]
        self._connection.executemany(
            "insert into events (log_id, position, type_id, version, payload, envelope, tags, chain)"
            " values (?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        self._connection.executemany(
            "insert into event_tags (log_id, tag, type_id, position) values (?, ?, ?, ?)", tags
        )

    async def add_commands(self, commands: Sequence[RememberedCommand]) -> None:
        self._connection.executemany(
            "insert into commands (log_id, command_id, request_hash, position, count, recorded_at)"
            " values (?, ?, ?, ?, ?, ?)",
            [(self._log_id, *msgspec.structs.astuple(command)) for command in commands],
        )

    async def add_rows(self, space: str, rows: Mapping[str, LogRow]) -> None:
        self._connection.executemany(
            "insert into rows (log_id, space, key, value, version) values (?, ?, ?, ?, ?)",
            [(self._log_id, space, key, row.value, row.version) for key, row in rows.items()],
        )

    def _add_type(self, name: str) -> int:
        self._types[name] = number = len(self._types) + 1
        insert = "insert into event_types (log_id, type_id, name) values (?, ?, ?)"
        self._connection.execute(insert, (self._log_id, number, name))
        return number


@asynccontextmanager
async def importing(
    connection: apsw.Connection, log_id: int, path: str, identity: LogIdentity, head: Position, chain: bytes
) -> AsyncGenerator[EmptyLog]:
    """A log to be filled, in one transaction that ends with this context."""
    with DiskErrors(path):
        connection.execute("begin immediate")
        try:
            if connection.execute(_CONTENT_COUNT, (log_id,)).get:
                raise WiringError(f"The log {path} is not empty. Move into a new file.")
            connection.execute("delete from event_types where log_id = ?", (log_id,))
            connection.execute(
                "update logs set name = ?, epoch = ?, position = ?, chain = ? where log_id = ?",
                (identity.log, identity.epoch, head, chain, log_id),
            )
            connection.executemany(
                "insert into epochs (log_id, epoch, after) values (?, ?, ?)",
                [(log_id, *fork) for fork in identity.forks],
            )
            yield SqliteEmptyLog(connection, log_id)
            connection.execute("commit")
        except BaseException:
            if connection.in_transaction:
                connection.execute("rollback")
            raise

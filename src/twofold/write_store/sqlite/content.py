"""Everything a log in SQLite holds, read over one connection."""

from collections.abc import Mapping, Sequence

import apsw

from twofold.domain.event_query import ALL_EVENTS, AppendCondition
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import WiringError
from twofold.write_store.checksums import command_checksum, damaged_command, epoch_checksums
from twofold.write_store.log_content import LogUse, RememberedCommand
from twofold.write_store.port import LogIdentity, LogRow
from twofold.write_store.sqlite.reader import Catalogue, LogReader

_COMMANDS = """
select command_id, request_hash, position, count, recorded_at, checksum from commands
where log_id = ? and command_id > ? order by command_id limit ?
"""
# From the last one back to the first one before the position: rows are in the order in which they came.
_SINCE = """
select command_id, request_hash, position, count, recorded_at, checksum from commands
where log_id = ?1 and arrival > coalesce(
    (select arrival from commands where log_id = ?1 and position < ?2 order by arrival desc limit 1), 0
)
"""
_VERSIONS = """
select key, version from rows
where log_id = ?1 and space = ?2 and key >= coalesce(?3, '') and key is not ?3 and (?4 is null or key <= ?4)
order by key limit ?5
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
        return [_sound(*row) for row in self._connection.execute(_COMMANDS, (self._log_id, after, limit))]

    async def commands_since(self, position: Position) -> Sequence[RememberedCommand]:
        return [_sound(*row) for row in self._connection.execute(_SINCE, (self._log_id, position))]

    async def spaces(self) -> Sequence[str]:
        sql = "select distinct space from rows where log_id = ? order by space"
        return [space for (space,) in self._connection.execute(sql, (self._log_id,))]

    async def rows(self, space: str, after: str | None, limit: int) -> Mapping[str, LogRow]:
        return self._reader.rows_after(space, after, limit)

    async def rows_of(self, space: str, keys: Sequence[str]) -> Mapping[str, LogRow]:
        return self._reader.rows(space, keys)

    async def versions(self, space: str, after: str | None, upto: str | None, limit: int) -> Mapping[str, int]:
        return dict(self._connection.execute(_VERSIONS, (self._log_id, space, after, upto, limit)))


def _sound(
    command_id: str, request_hash: bytes, position: Position, count: int, recorded_at: int, checksum: int
) -> RememberedCommand:
    """What is remembered of a command. WiringError where it is not what was written."""
    row = command_id, request_hash, position, count, recorded_at
    if command_checksum(*row) != checksum:
        raise WiringError(damaged_command(command_id))
    return RememberedCommand(*row)


def use_of(connection: apsw.Connection, log_id: int) -> LogUse:
    """What a log is used for. WiringError where that is damaged."""
    for use in connection.execute("select use, place from logs where log_id = ?", (log_id,)):
        return LogUse(*use)
    raise _damaged(connection)


def identity_of(connection: apsw.Connection, log_id: int) -> LogIdentity:
    """Which history a log is. WiringError where that is damaged."""
    sql = "select epoch, after, checksum from epochs where log_id = ? order by epoch"
    stored = list(connection.execute(sql, (log_id,)))
    forks = [(epoch, after) for epoch, after, _ in stored]
    for name, epoch in connection.execute("select name, epoch from logs where log_id = ?", (log_id,)):
        # The tables say of which kind each value is, but a damaged file need not keep to it.
        numbers = all(isinstance(number, int) for row in [(epoch,), *stored] for number in row)
        if isinstance(name, str) and numbers and epoch_checksums(forks) == [checksum for _, _, checksum in stored]:
            return LogIdentity(name, epoch, tuple(forks))
    raise _damaged(connection)


def _damaged(connection: apsw.Connection) -> WiringError:
    return WiringError(
        f"The log {connection.filename} is damaged: its row in the table logs, or one in epochs, cannot be read. "
        "Restore the log from a backup."
    )

"""The rows of a log in SQLite as they are stored, to be checked for damage."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import apsw

from twofold.domain.envelope import StoredEnvelope
from twofold.domain.events import Position
from twofold.write_store.chain import chain_start
from twofold.write_store.sqlite.packing import (
    DamagedPayload,
    PayloadUnpacker,
    damaged_dictionaries,
    is_packed,
)
from twofold.write_store.sqlite.reader import EVERY_EVENT
from twofold.write_store.verification import (
    CommandRow,
    HeadRow,
    LogUnreadable,
    RawEvent,
    TagEntry,
    stored_tags,
)

# Text is read as bytes: damaged text may be no UTF-8, which the driver would refuse.
_EVENTS = """
select e.position, e.type_id, cast(y.name as blob), e.version, e.payload, e.envelope, e.tags, e.chain
from events as e left join event_types as y on y.log_id = e.log_id and y.type_id = e.type_id
where e.log_id = ? and e.position > ? order by e.position limit ?
"""
_INDEXED = "select 1 from event_tags where log_id = ? and tag = ? and type_id = ? and position = ?"
_INDEX = """
select cast(t.tag as blob), t.type_id, t.position, e.type_id, e.tags
from event_tags as t left join events as e on e.log_id = t.log_id and e.position = t.position
where t.log_id = ?1 and (t.tag, t.type_id, t.position) > (cast(?2 as text), ?3, ?4)
order by t.tag, t.type_id, t.position limit ?5
"""
_COMMANDS = """
select cast(c.command_id as blob), c.position, c.count, first.envelope, last.envelope, c.request_hash,
       c.recorded_at, 0, c.checksum
from commands as c
left join events as first on first.log_id = c.log_id and first.position = c.position - c.count + 1
left join events as last on last.log_id = c.log_id and last.position = c.position
where c.log_id = ?1 and c.command_id > cast(?2 as text) order by c.command_id limit ?3
"""
_REMEMBERED = "select position, count from commands where log_id = ? and command_id = ?"
_HEAD = """
select l.position, l.chain, l.epoch,
       (select e.chain from events as e where e.log_id = l.log_id and e.position = l.position),
       (select min(e.position) from events as e where e.log_id = l.log_id and e.position > l.position),
       (select max(p.epoch) from epochs as p where p.log_id = l.log_id), l.name
from logs as l where l.log_id = ?
"""
_ALL = 1 << 62


class SqliteRawLog:
    """The rows of a log, read over one connection."""

    def __init__(self, connection: apsw.Connection, log_id: int) -> None:
        self._connection = connection
        self._log_id = log_id

    async def head(self) -> HeadRow:
        return self.head_now()

    def head_now(self) -> HeadRow:
        """The row of the head."""
        with readable():
            for row in self._connection.execute(_HEAD, (self._log_id,)):
                whole_numbers(row[0], row[2])
                return HeadRow(*row)
        raise LogUnreadable("its row in the table logs is missing")

    async def events(self, after: Position, limit: int) -> Sequence[RawEvent]:
        with readable(), self._snapshot():
            return list(raw_events(self._connection, self._log_id, after, limit))

    async def index(self, after: TagEntry | None, limit: int) -> Sequence[TagEntry]:
        start = (b"", -_ALL, 0) if after is None else (encoded(after.tag), after.type_id, after.position)
        entries: list[TagEntry] = []
        with readable():
            for tag, type_id, position, *event in self._connection.execute(_INDEX, (self._log_id, *start, limit)):
                whole_numbers(type_id, position)
                entries.append(TagEntry(decoded(tag), type_id, position, *event))
        return entries

    async def commands(self, after: str, limit: int) -> Sequence[CommandRow]:
        found: list[CommandRow] = []
        with readable():
            for command_id, *row in self._connection.execute(_COMMANDS, (self._log_id, encoded(after), limit)):
                whole_numbers(*row[:2], row[5])
                found.append(CommandRow(decoded(command_id), *row))
        return found

    async def remembered(self, command_ids: Sequence[str]) -> Mapping[str, tuple[Position, int]]:
        found: dict[str, tuple[Position, int]] = {}
        with readable():
            for command_id in command_ids:
                for row in self._connection.execute(_REMEMBERED, (self._log_id, command_id)):
                    whole_numbers(*row)
                    found[command_id] = row
        return found

    async def storage(self) -> Sequence[str]:
        with readable():
            found = [str(text) for (text,) in self._connection.execute("pragma integrity_check")]
            damaged = [] if found == ["ok"] else [f"SQLite finds the file damaged: {text}." for text in found]
            return [*damaged, *damaged_dictionaries(self._connection, self._log_id)]

    @contextmanager
    def _snapshot(self) -> Generator[None]:
        self._connection.execute("begin")
        try:
            yield
        finally:
            self._connection.execute("rollback")


def raw_events(connection: apsw.Connection, log_id: int, after: Position, limit: int = _ALL) -> Iterator[RawEvent]:
    """The events after a position, in order, with the tags that the index lacks.

    A payload that cannot be unpacked is as it is stored: its digest will not fit.
    """
    unpacker = PayloadUnpacker(connection, log_id)
    for position, type_id, name, version, payload, envelope, tags, chain in connection.execute(
        _EVENTS, (log_id, after, limit)
    ):
        whole_numbers(position, type_id, version)
        missing = [
            tag
            for tag in (EVERY_EVENT, *((isinstance(tags, bytes) and stored_tags(tags)) or ()))
            if connection.execute(_INDEXED, (log_id, tag, type_id, position)).fetchone() is None
        ]
        type = None if name is None else decoded(name)
        if isinstance(payload, bytes) and is_packed(payload):
            with suppress(DamagedPayload):
                payload = unpacker.unpack_checked(type_id, payload)
        yield RawEvent(position, type, version, payload, StoredEnvelope(envelope, tags), chain, missing)


def chain_at(connection: apsw.Connection, log_id: int, position: Position) -> bytes:
    """The chain that is stored at a position; empty where no event is."""
    if not position:
        return chain_start(str(connection.execute("select name from logs where log_id = ?", (log_id,)).get))
    row = connection.execute(
        "select chain from events where log_id = ? and position = ?", (log_id, position)
    ).fetchone()
    return row[0] if row else b""


@contextmanager
def readable() -> Generator[None]:
    """Raises what SQLite cannot read as LogUnreadable, unless the file is only locked or gone."""
    try:
        yield
    except (apsw.BusyError, apsw.ConnectionClosedError, apsw.CantOpenError, apsw.PermissionsError):
        raise
    except (apsw.Error, UnicodeDecodeError) as error:
        raise LogUnreadable(str(error)) from error


def whole_numbers(*values: Any) -> None:
    """LogUnreadable unless all are integers: the table says that they are, but a damaged file need not."""
    for value in values:
        if not isinstance(value, int):
            raise LogUnreadable(f"a number is stored as {value!r:.100}")


def decoded(text: bytes) -> str:
    """Text that was read as bytes, whether it is UTF-8 or not."""
    return text.decode(errors="surrogateescape")


def encoded(text: str) -> bytes:
    """The bytes of `decoded` text."""
    return text.encode(errors="surrogateescape")

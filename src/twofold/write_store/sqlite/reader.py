"""Finding events in SQLite: from an event query to positions in the tag index, and from positions to events."""

from array import array
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

import apsw

from twofold.domain.envelope import StoredEnvelope
from twofold.domain.event_query import AppendCondition, EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Unavailable
from twofold.write_store.chain import chain_start
from twofold.write_store.checksums import command_checksum, damaged_command, damaged_row, row_checksum
from twofold.write_store.port import PAGE_BYTES, Appended, LogRow, Slice
from twofold.write_store.sqlite.packing import FIRST_OF_JSON, DamagedPayload, PayloadUnpacker

EVERY_EVENT = ""
_EVERY = (EVERY_EVENT,)
SQLiteValue = int | str
StoredRow = tuple[int, int, int, bytes, bytes, bytes, bytes]
"""Position, number of the type, version, payload, head of the envelope, tags, chain."""

_RANGE = """
select position from (
    select position from event_tags as t
    where log_id = ?1 and tag = ?{tag} and type_id = ?{type} and position > ?{after} {and_other_tags}
    order by position limit ?2
)
"""
_AND_OTHER_TAG = """
and exists (
    select 1 from event_tags as o
    where o.log_id = ?1 and o.tag = ?{tag} and o.type_id = ?{type} and o.position = t.position
)
"""
_RANGES_AT_ONCE = 200
_EVENTS = """
select e.position, e.type_id, e.version, e.payload, e.envelope, e.tags, e.chain
from carray(?2) as wanted cross join events as e on e.log_id = ?1 and e.position = wanted.value
"""
_ALL_EVENTS = """
select position, type_id, version, payload, envelope, tags, chain from events
where log_id = ?1 and position > ?2 and position <= ?3 order by position limit ?4
"""
_OF_TYPES = """
select position, type_id, version, payload, envelope, tags, chain from events
where log_id = ?1 and position > ?2 and position <= ?3 and type_id in (select value from carray(?5))
order by position limit ?4
"""
_WINDOW = 2
_READS_BY_INDEX = 1_000
"""Reads by index after a scan that found too little: a scan costs as much as a hundred of them."""
_MOST_QUERIES = 1_000
_COMMANDS = """
select c.command_id, c.request_hash, c.position, c.count, c.recorded_at, c.checksum, e.chain
from carray(?2) as wanted cross join commands as c on c.log_id = ?1 and c.command_id = wanted.value
left join events as e on e.log_id = ?1 and e.position = c.position
"""
_ROWS = """
select key, value, version, checksum from rows
where log_id = ?1 and space = ?2 and key >= coalesce(?3, '') and key is not ?3 order by key limit ?4
"""
_ROWS_OF = """
select r.key, r.value, r.version, r.checksum
from carray(?3) as wanted cross join rows as r on r.log_id = ?1 and r.space = ?2 and r.key = wanted.value
"""
_COUNT = "select count(*) from (select 1 from event_tags where log_id = ?1 and tag = ?2 and type_id = ?3 limit ?4)"
_NO_LIMIT = -1


class Head(NamedTuple):
    """The last position, and the chain there."""

    position: Position
    chain: bytes


class Catalogue:
    """The numbers of the stored types, and the head where this process writes; shared by readers."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.ids: dict[str, int] = {}
        self.head: Head | None = None


class _FoundEvents(NamedTuple):
    """Events in order; `full` if there may be more, because they have enough bytes."""

    events: list[RecordedEvent]
    full: bool


class LogReader:
    """Reads one log over one connection.

    A snapshot needs no transaction: the head is read first, events at or before it never change, and events beyond it
    are left out.
    """

    def __init__(self, connection: apsw.Connection, log_id: int, catalogue: Catalogue) -> None:
        self.connection = connection
        self.log_id = log_id
        self._catalogue = catalogue
        self._sparse: dict[EventQuery, int] = {}
        self._unpacker = PayloadUnpacker(connection, log_id)

    def slice(self, conditions: Sequence[AppendCondition], limit: int | None, size: int = PAGE_BYTES) -> Slice:
        """The events matching any of the conditions, and the head."""
        head, chain = self.head()
        page = None if _wants_all(conditions) else self._dense(conditions, head, limit, size)
        if page is None and _wants_all(conditions):
            page = self._everything(min(condition.after for condition in conditions), head, limit, size)
        elif page is None:
            items = [(item, c.after) for c in conditions if c.after < head for item in c.query.items]
            page = self._at(sorted(p for p in self._positions(items, limit) if p <= head)[:limit], size)
        events = page.events
        full = page.full or (limit is not None and len(events) == limit)
        if full and events:
            return Slice(events, events[-1].position, head, events[-1].chain)
        return Slice(events, head, head, chain)

    def _dense(
        self, conditions: Sequence[AppendCondition], head: Position, limit: int | None, size: int
    ) -> _FoundEvents | None:
        """A page of the events one condition selects by type alone, from a scan of the log. None: use the index.

        Where most events are of these types, a scan takes half the time of the index. A query whose events are too
        sparse uses the index from then on; a scan is tried again after some reads.
        """
        if limit is None or len(conditions) != 1 or any(item.tags for item in conditions[0].query.items):
            return None
        query, after = conditions[0].query, conditions[0].after
        upto = min(head, after + limit * _WINDOW)
        if upto - after < limit:
            return None
        if to_go := self._sparse.get(query, 0):
            self._sparse[query] = to_go - 1
            return None
        types = array("q", {number for item in query.items for number in self._type_ids(item)})
        page = _FoundEvents([], full=False)
        if types:
            bound = (self.log_id, after, upto, limit, apsw.carray(types))
            page = self._recorded(self.connection.execute(_OF_TYPES, bound), size)
        if page.full or len(page.events) == limit or upto == head:
            return page
        if len(self._sparse) >= _MOST_QUERIES:
            self._sparse.clear()
        self._sparse[query] = _READS_BY_INDEX
        return None

    def head(self) -> Head:
        """The last position, and the chain there."""
        return self._catalogue.head or self.stored_head()

    def stored_head(self) -> Head:
        """The last position, and the chain there, from the file."""
        sql = "select position, chain from logs where log_id = ?"
        for position, chain in self.connection.execute(sql, (self.log_id,)):
            return Head(position, chain)
        raise LookupError(self.log_id)

    def any_match(self, condition: AppendCondition, upto: Position) -> bool:
        """Whether any event up to a position matches a condition."""
        positions = self._positions([(item, condition.after) for item in condition.query.items], 1)
        return any(position <= upto for position in positions)

    def remembered(self, command_ids: Sequence[str]) -> dict[str, tuple[bytes, Appended]]:
        """The request hash and outcome of each of these command ids that is known. Unavailable where it is damaged."""
        if not command_ids:
            return {}
        found: dict[str, tuple[bytes, Appended]] = {}
        for *row, checksum, chain in self.connection.execute(_COMMANDS, (self.log_id, apsw.carray(tuple(command_ids)))):
            command_id, request_hash, at, count, _ = row
            if command_checksum(*row) != checksum:
                raise Unavailable(damaged_command(command_id))
            found[command_id] = request_hash, Appended(at, count, chain=chain or self._chain_at_start())
        return found

    def _chain_at_start(self) -> bytes:
        for (name,) in self.connection.execute("select name from logs where log_id = ?", (self.log_id,)):
            return chain_start(str(name))
        raise LookupError(self.log_id)

    def last_recorded_at(self) -> int | None:
        """When the command id that came last was recorded; None where there is none."""
        sql = "select recorded_at from commands where log_id = ? order by arrival desc limit 1"
        for (recorded_at,) in self.connection.execute(sql, (self.log_id,)):
            return int(recorded_at)
        return None

    def rows(self, space: str, keys: Sequence[str] | None = None, limit: int | None = None) -> dict[str, LogRow]:
        """The rows of one space by key, at most `limit`: all, or those of `keys`. Unavailable where one is damaged."""
        if keys is None:
            return self.rows_after(space, None, _NO_LIMIT if limit is None else limit)
        # An empty array cannot be bound.
        rows = self.connection.execute(_ROWS_OF, (self.log_id, space, apsw.carray(tuple(keys)))) if keys else ()
        return dict(_sound_row(space, *row) for row in islice(rows, limit))

    def rows_after(self, space: str, after: str | None, limit: int) -> dict[str, LogRow]:
        """Rows of one space after a key, in the order of their bytes; None: from the first one.

        Unavailable where one is damaged.
        """
        rows = self.connection.execute(_ROWS, (self.log_id, space, after, limit))
        return dict(_sound_row(space, *row) for row in rows)

    def row_version(self, space: str, key: str) -> tuple[int, int]:
        """The version of one row, and its checksum; zeros where there is none."""
        sql = "select version, checksum from rows where log_id = ? and space = ? and key = ?"
        for version, checksum in self.connection.execute(sql, (self.log_id, space, key)):
            return version, checksum
        return 0, 0

    def refresh_types(self) -> dict[str, int]:
        """The stored types and their numbers, read again. What is known and not stored is forgotten."""
        known = self._catalogue
        sql = "select type_id, name from event_types where log_id = ?"
        # Nothing is forgotten before all is read: readers that know no types find no events.
        stored = list(self.connection.execute(sql, (self.log_id,)))
        known.names.clear()
        known.ids.clear()
        for type_id, name in stored:
            known.names[type_id] = name
            known.ids[name] = type_id
        return known.ids

    def _type_ids(self, item: QueryItem) -> list[int]:
        """The numbers of the types an item names. Types that were never stored match nothing."""
        known = self._catalogue
        # A writer in this process adds to the catalogue itself. Otherwise a type may be new since the last read.
        if known.head is None and not (item.types and all(name in known.ids for name in item.types)):
            self.refresh_types()
        return [known.ids[name] for name in item.types if name in known.ids] if item.types else list(known.names)

    def _positions(self, items: Iterable[tuple[QueryItem, Position]], limit: int | None) -> set[Position]:
        """At least the first `limit` positions of the events that match any of the items after its position."""
        positions: set[Position] = set()
        shape: list[tuple[int, int]] = []
        bound: list[SQLiteValue] = []
        for item, after in items:
            types = self._type_ids(item)
            tags = self._rarest_first(item.tags, types) if len(item.tags) > 1 and types else item.tags or _EVERY
            for start in range(0, len(types), _RANGES_AT_ONCE):
                some = types[start : start + _RANGES_AT_ONCE]
                if sum(ranges for _, ranges in shape) + len(some) > _RANGES_AT_ONCE:
                    positions |= self._run(shape, bound, limit)
                    shape, bound = [], []
                shape.append((len(tags), len(some)))
                bound += (after, *tags, *some)
        return positions | self._run(shape, bound, limit)

    def _run(self, shape: list[tuple[int, int]], bound: list[SQLiteValue], limit: int | None) -> set[Position]:
        if not shape:
            return set()
        values = (self.log_id, _NO_LIMIT if limit is None else limit, *bound)
        return {position for (position,) in self.connection.execute(_positions_sql(tuple(shape)), values)}

    def _at(self, positions: Sequence[Position], size: int) -> _FoundEvents:
        if not positions:
            return _FoundEvents([], full=False)
        wanted = apsw.carray(array("q", positions))
        return self._recorded(self.connection.execute(_EVENTS, (self.log_id, wanted)), size)

    def _everything(self, after: Position, head: Position, limit: int | None, size: int) -> _FoundEvents:
        bound = (self.log_id, after, head, _NO_LIMIT if limit is None else limit)
        return self._recorded(self.connection.execute(_ALL_EVENTS, bound), size)

    def _rarest_first(self, tags: tuple[str, ...], types: Sequence[int]) -> tuple[str, ...]:
        """The tags with the one of the fewest events first: so the cost of a query depends on the rarest tag.

        Tags are counted with a growing limit until the count of one is below it, so that counting costs no more than
        reading.
        """
        limit = 16
        while True:
            for tag in tags:
                counted = sum(self._one(_COUNT, (self.log_id, tag, type_id, limit)) for type_id in types)
                if counted < limit:
                    return (tag, *(other for other in tags if other != tag))
            limit *= 8

    def _recorded(self, rows: apsw.Cursor, size: int) -> _FoundEvents:
        """The events of a result, in order, up to the one that brings their bytes to `size`."""
        names = self._catalogue.names
        events: list[RecordedEvent] = []
        held = 0
        for position, type_id, version, payload, envelope, tags, chain in rows:
            if type_id not in names:
                self.refresh_types()
                if type_id not in names:
                    raise _damaged(position, "The type of the event there has no name")
            if payload.__class__ is not bytes:
                raise _damaged(position, "The payload of the event there is not stored as bytes")
            if payload and payload[0] < FIRST_OF_JSON:
                try:
                    payload = self._unpacker.unpack(type_id, payload)
                except DamagedPayload as damage:
                    raise _damaged(position, str(damage)) from damage
            stored = StoredEnvelope(envelope, tags)
            events.append(RecordedEvent(position, names[type_id], version, payload, stored, chain))
            held += len(payload) + len(envelope) + len(tags)
            if held >= size:
                # A statement that is not finished would keep its snapshot, and with it the write-ahead log.
                rows.close()
                return _FoundEvents(events, full=True)
        return _FoundEvents(events, full=False)

    def _one(self, sql: str, bound: tuple[SQLiteValue, ...]) -> int:
        for (value,) in self.connection.execute(sql, bound):
            return int(value)
        raise LookupError(sql)


def _sound_row(space: str, key: str, value: bytes, version: int, checksum: int) -> tuple[str, LogRow]:
    """A key and its row. Unavailable where it is not what was written."""
    if row_checksum(space, key, version, value) != checksum:
        raise Unavailable(damaged_row(space, key), retry_after=60.0)
    return key, LogRow(value, version)


def _damaged(position: Position, what: str) -> Unavailable:
    return Unavailable(
        f"The log is damaged at position {position}. {what}. Run `twofold verify`, then restore the log from a backup.",
        retry_after=60.0,
    )


def _wants_all(conditions: Sequence[AppendCondition]) -> bool:
    """Whether every condition selects every event, so that the log itself is the index."""
    return bool(conditions) and all(
        any(not item.types and not item.tags for item in condition.query.items) for condition in conditions
    )


@cache
def _positions_sql(shape: tuple[tuple[int, int], ...]) -> str:
    """One limited range of the index for each type of each item, so that the limit bounds what is read.

    `shape` has, for each item, how many tags and types are bound, after the position it starts after.
    """
    ranges: list[str] = []
    at = 3
    for tags, types in shape:
        for type_at in range(at + 1 + tags, at + 1 + tags + types):
            others = [_AND_OTHER_TAG.format(tag=tag_at, type=type_at) for tag_at in range(at + 2, at + 1 + tags)]
            ranges.append(_RANGE.format(after=at, tag=at + 1, type=type_at, and_other_tags="".join(others)))
        at += 1 + tags + types
    return " union all ".join(ranges)

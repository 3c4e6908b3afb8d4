"""In charge of finding events: from an event query to positions in the tag index, and from positions to events."""

from array import array
from collections.abc import Iterator, Sequence
from functools import cache, partial

import apsw
import msgspec

from twofold.domain.event_query import AppendCondition, QueryItem
from twofold.domain.events import Envelope, Position, RecordedEvent
from twofold.write_store.port import Appended, Row, Slice

EVERY_EVENT = ""
_decode_envelope = msgspec.json.Decoder(Envelope).decode

_RANGE = """
select position from (
    select position from event_tags as t
    where log_id = ?1 and tag = ?4 and type_id = ?{type} and position > ?2 {and_other_tags} order by position limit ?3
)
"""
_AND_OTHER_TAG = """
and exists (
    select 1 from event_tags as o
    where o.log_id = ?1 and o.tag = ?{tag} and o.type_id = ?{type} and o.position = t.position
)
"""
_TYPES_AT_ONCE = 100
_EVENTS = """
select e.position, e.type_id, e.version, e.payload, e.envelope
from carray(?2) as wanted cross join events as e on e.log_id = ?1 and e.position = wanted.value
"""
_ALL_EVENTS = """
select position, type_id, version, payload, envelope from events
where log_id = ?1 and position > ?2 order by position limit ?3
"""
_COMMANDS = """
select c.command_id, c.request_hash, c.position, c.count
from carray(?2) as wanted cross join commands as c on c.log_id = ?1 and c.command_id = wanted.value
"""
_COUNT = "select count(*) from (select 1 from event_tags where log_id = ?1 and tag = ?2 and type_id = ?3 limit ?4)"
_NO_LIMIT = -1


class LogReader:
    """Reads one log over one connection. The caller holds the transaction that makes several reads one snapshot."""

    def __init__(self, connection: apsw.Connection, log_id: int) -> None:
        self.connection = connection
        self.log_id = log_id
        self._names: dict[int, str] = {}
        self._ids: dict[str, int] = {}

    def slice(self, conditions: Sequence[AppendCondition], limit: int | None) -> Slice:
        """The events matching any of the conditions, and the head."""
        head = self.head()
        events = list(
            self._everything(conditions, limit) if _wants_all(conditions) else self._matching(conditions, limit)
        )
        cut = limit is not None and len(events) == limit and events[-1].position < head
        return Slice(events, events[-1].position if cut else head, head)

    def head(self) -> Position:
        """The last position."""
        return int(self._one("select position from logs where log_id = ?", (self.log_id,)))

    def any_match(self, condition: AppendCondition) -> bool:
        """Whether any event matches a condition."""
        return any(self._positions(item, condition.after, 1) for item in condition.query.items)

    def remembered(self, command_ids: Sequence[str]) -> dict[str, tuple[bytes, Appended]]:
        """The request hash and outcome kept for each of these command ids that is known."""
        if not command_ids:
            return {}
        rows = self.connection.execute(_COMMANDS, (self.log_id, apsw.carray(tuple(command_ids))))
        return {command_id: (request_hash, Appended(at, count)) for command_id, request_hash, at, count in rows}

    def rows(self, space: str) -> dict[str, Row]:
        """The rows of one space by key."""
        sql = "select key, value, version from rows where log_id = ? and space = ?"
        return {key: Row(value, version) for key, value, version in self.connection.execute(sql, (self.log_id, space))}

    def row_version(self, space: str, key: str) -> int:
        """The version of one row; 0 where there is none."""
        sql = "select version from rows where log_id = ? and space = ? and key = ?"
        for (version,) in self.connection.execute(sql, (self.log_id, space, key)):
            return int(version)
        return 0

    def type_ids(self, item: QueryItem) -> list[int]:
        """The numbers of the types an item names; types that were never stored match nothing."""
        if item.types:
            if not all(name in self._ids for name in item.types):
                self.refresh_types()
            return [self._ids[name] for name in item.types if name in self._ids]
        self.refresh_types()
        return list(self._names)

    def refresh_types(self) -> dict[str, int]:
        """The stored types and their numbers, read again."""
        sql = "select type_id, name from event_types where log_id = ?"
        for type_id, name in self.connection.execute(sql, (self.log_id,)):
            self._names[type_id] = name
            self._ids[name] = type_id
        return self._ids

    def _matching(self, conditions: Sequence[AppendCondition], limit: int | None) -> Iterator[RecordedEvent]:
        each = [self._positions(item, c.after, limit) for c in conditions for item in c.query.items]
        found = sorted({position for positions in each for position in positions})
        if not found:
            return iter(())
        wanted = apsw.carray(array("q", found[:limit]))
        return self._recorded(self.connection.execute(_EVENTS, (self.log_id, wanted)))

    def _everything(self, conditions: Sequence[AppendCondition], limit: int | None) -> Iterator[RecordedEvent]:
        after = min(condition.after for condition in conditions)
        bound = (self.log_id, after, _NO_LIMIT if limit is None else limit)
        return self._recorded(self.connection.execute(_ALL_EVENTS, bound))

    def _positions(self, item: QueryItem, after: Position, limit: int | None) -> list[Position]:
        """At least the first `limit` positions of the events an item matches, in no order."""
        types = self.type_ids(item)
        tags = self._rarest_first(item.tags, types) if len(item.tags) > 1 and types else item.tags or (EVERY_EVENT,)
        found: list[Position] = []
        for start in range(0, len(types), _TYPES_AT_ONCE):
            some = types[start : start + _TYPES_AT_ONCE]
            bound = (self.log_id, after, _NO_LIMIT if limit is None else limit, *tags, *some)
            rows = self.connection.execute(_positions_sql(len(tags), len(some)), bound)
            found.extend(position for (position,) in rows)
        return found

    def _rarest_first(self, tags: tuple[str, ...], types: Sequence[int]) -> tuple[str, ...]:
        """Look from the tag with the fewest events: the cost of a query follows the rarest tag, not the log.

        Tags are counted with a growing limit until one of them runs out, so that counting is no dearer than answering.
        """
        limit = 16
        while True:
            for tag in tags:
                counted = sum(self._one(_COUNT, (self.log_id, tag, type_id, limit)) for type_id in types)
                if counted < limit:
                    return (tag, *(other for other in tags if other != tag))
            limit *= 8

    def _recorded(self, rows: Iterator[tuple[int, int, int, bytes, bytes]]) -> Iterator[RecordedEvent]:
        names = self._names
        for position, type_id, version, payload, envelope in rows:
            if type_id not in names:
                self.refresh_types()
            yield RecordedEvent(position, names[type_id], version, payload, partial(_decode_envelope, envelope))

    def _one(self, sql: str, bound: tuple[object, ...]) -> int:
        for (value,) in self.connection.execute(sql, bound):  # type: ignore[arg-type]
            return int(value)
        raise LookupError(sql)


def _wants_all(conditions: Sequence[AppendCondition]) -> bool:
    """Whether every condition selects every event, so that the log itself is the index."""
    return bool(conditions) and all(
        any(not item.types and not item.tags for item in condition.query.items) for condition in conditions
    )


@cache
def _positions_sql(tags: int, types: int) -> str:
    """One limited range of the index for each type: what is read is bounded by the limit, never by the log."""
    ranges: list[str] = []
    for type_at in range(4 + tags, 4 + tags + types):
        others = "".join(_AND_OTHER_TAG.format(tag=tag_at, type=type_at) for tag_at in range(5, 4 + tags))
        ranges.append(_RANGE.format(type=type_at, and_other_tags=others))
    return " union all ".join(ranges)

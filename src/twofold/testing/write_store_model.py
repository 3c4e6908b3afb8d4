"""A model of a log for the contract: the simplest possible one, with histories and short constructors."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import ALL_EVENTS, AppendCondition, EventQuery, QueryItem
from twofold.domain.events import NewEvent, Position, RecordedEvent
from twofold.write_store.port import Append, Appended, Outcome, RowGuard, RowWrite, WriteStore

METADATA = Metadata(time=946_728_000_000_000, command_id="c", correlation_id="k", causation_id="e.0", actor="ann")


class LogEntry(msgspec.Struct, frozen=True):
    """An event of the model, with its position."""

    position: Position
    event: NewEvent


class LogModel:
    """A list of events that is searched from the start each time. Outcomes are plain tuples."""

    def __init__(self) -> None:
        self.events: list[LogEntry] = []
        self.commands: dict[str, tuple[bytes, Position, int]] = {}
        self.rows: dict[str, dict[str, tuple[bytes, int]]] = {}

    @property
    def head(self) -> Position:
        return len(self.events)

    def batch(self, batch: Sequence[Append]) -> list[tuple[object, ...]]:
        """The outcomes of a batch: `("appended", position, count, repeated)`, `("conflict",)` or `("reused",)` each."""
        before = self.head
        outcomes: list[tuple[object, ...]] = []
        for append in batch:
            written = [outcomes[place][0] == "appended" and not outcomes[place][3] for place in append.rests_on or ()]
            outcomes.append(self._append(append, self.head if append.rests_on is None else before, all(written)))
        return outcomes

    def _append(self, append: Append, unseen: Position, rests: bool) -> tuple[object, ...]:
        known = self.commands.get(append.command_id or "")
        if append.command_id is not None and known is not None:
            request_hash, position, count = known
            return ("appended", position, count, True) if request_hash == append.request_hash else ("reused",)
        rows_hold = all(map(self._is_at, append.rows)) and all(map(self._is_at, append.guards))
        newer = [entry for entry in self.matching(append.conditions) if entry.position <= unseen]
        if newer or not rows_hold or not rests:
            return ("conflict",)
        for event in append.events:
            self.events.append(LogEntry(self.head + 1, event))
        for row in append.rows:
            space = self.rows.setdefault(row.space, {})
            space.pop(row.key, None)
            if row.value is not None:
                space[row.key] = (row.value, row.next)
        if append.command_id is not None:
            self.commands[append.command_id] = (append.request_hash, self.head, len(append.events))
        return ("appended", self.head, len(append.events), False)

    def matching(self, conditions: Sequence[AppendCondition]) -> list[LogEntry]:
        """The events that break any of the conditions."""
        return [
            entry
            for entry in self.events
            if any(entry.position > c.after and is_selected(c.query, entry.event) for c in conditions)
        ]

    def _is_at(self, row: RowWrite | RowGuard) -> bool:
        return self.rows.get(row.space, {}).get(row.key, (b"", 0))[1] == row.expected


def is_selected(query: EventQuery, event: NewEvent) -> bool:
    """The rule of event queries, implemented a second time: items by OR, types by OR, tags by AND."""
    for item in query.items:
        type_fits = len(item.types) == 0 or event.type in item.types
        tags_fit = [tag for tag in item.tags if tag not in event.tags] == []
        if type_fits and tags_fit:
            return True
    return False


def new_event(
    type: str = "thing-happened", tags: Iterable[str] = (), id: str = "c.0", payload: bytes = b"{}", version: int = 1
) -> NewEvent:
    """An event for the log."""
    return NewEvent(id, type, version, tuple(sorted(tags)), payload)


def query(*items: tuple[Sequence[str], Sequence[str]]) -> EventQuery:
    """An event query of (types, tags) pairs."""
    return EventQuery(tuple(QueryItem(tuple(types), tuple(tags)) for types, tags in items))


def event(type: str = "a", **fields: Any) -> NewEvent:
    """An event of this type, with `tags`, `payload`, `id` and `version` as given."""
    return new_event(type, **fields)


def append(
    *events: NewEvent,
    conditions: Sequence[AppendCondition] = (),
    command_id: str | None = None,
    rows: Sequence[RowWrite] = (),
    guards: Sequence[RowGuard] = (),
    rests_on: tuple[int, ...] | None = None,
) -> Append:
    """An append of these events."""
    request_hash = b"one" if command_id else b""
    return Append(
        METADATA,
        events,
        tuple(conditions),
        command_id,
        request_hash,
        rows=tuple(rows),
        guards=tuple(guards),
        rests_on=rests_on,
    )


async def put(
    store: WriteStore,
    *events: NewEvent,
    conditions: Sequence[AppendCondition] = (),
    rows: Sequence[RowWrite] = (),
    guards: Sequence[RowGuard] = (),
) -> Outcome:
    """The outcome of one append that is alone in its batch."""
    (outcome,) = await store.append([append(*events, conditions=conditions, rows=rows, guards=guards)])
    return outcome


async def everything(store: WriteStore) -> list[RecordedEvent]:
    """All events of the log."""
    return (await store.read(ALL_EVENTS)).events


def kinds(outcomes: Sequence[Outcome]) -> list[object]:
    """Outcomes in short: the position of an append, or the name of the error."""
    return [o.position if isinstance(o, Appended) else type(o).__name__ for o in outcomes]


# Few names, so that generated events and queries match often.
TYPES = ("opened", "moved", "closed")
TAGS = ("door:1", "door:2", "house:1", "house:2")

EVENTS = st.builds(
    new_event, type=st.sampled_from(TYPES), tags=st.sets(st.sampled_from(TAGS)), payload=st.binary(max_size=4)
)
ITEMS = st.builds(
    QueryItem,
    types=st.sets(st.sampled_from((*TYPES, "never-stored")), max_size=2).map(lambda names: tuple(sorted(names))),
    tags=st.sets(st.sampled_from((*TAGS, "door:9")), max_size=3).map(lambda names: tuple(sorted(names))),
)
QUERIES = st.builds(EventQuery, items=st.lists(ITEMS, max_size=3).map(tuple))
CONDITIONS = st.builds(AppendCondition, query=QUERIES, after=st.integers(0, 12))
ROWS = st.builds(
    RowWrite,
    space=st.sampled_from(("checkpoints", "timers")),
    key=st.sampled_from(("one", "two")),
    value=st.none() | st.binary(max_size=4),
    expected=st.sampled_from((0, 0, 1, 2)),
    version=st.sampled_from((None, None, 1, 2)),
)
GUARDS = st.builds(
    RowGuard,
    space=st.sampled_from(("checkpoints", "timers")),
    key=st.sampled_from(("one", "two", "three")),
    expected=st.sampled_from((0, 0, 0, 1, 2)),
)
APPENDS = st.builds(
    Append,
    metadata=st.just(METADATA),
    events=st.lists(EVENTS, max_size=3).map(tuple),
    conditions=st.lists(CONDITIONS, max_size=2).map(tuple),
    command_id=st.none() | st.sampled_from(("c-1", "c-2", "c-3")),
    request_hash=st.sampled_from((b"same", b"same", b"other")),
    rows=st.lists(ROWS, max_size=2, unique_by=lambda row: (row.space, row.key)).map(tuple),
    guards=st.just(()) | st.lists(GUARDS, max_size=2).map(tuple),
)
HISTORIES = st.lists(st.lists(APPENDS, min_size=1, max_size=4), max_size=6)


def in_turn(batch: Sequence[tuple[Append, frozenset[int]]]) -> list[Append]:
    """A batch whose appends rest on some of those before them."""
    return [
        msgspec.structs.replace(append, rests_on=tuple(sorted(place for place in places if place < number)))
        for number, (append, places) in enumerate(batch)
    ]


# Without command ids, guards and conditions on the rest of the batch, for which a store may split a batch.
IN_TURN = st.builds(
    Append,
    metadata=st.just(METADATA),
    events=st.lists(EVENTS, max_size=2).map(tuple),
    conditions=st.lists(CONDITIONS, max_size=2).map(tuple),
    rows=st.just(()) | st.lists(ROWS, max_size=1).map(tuple),
)
IN_TURN_BATCHES = st.lists(st.tuples(IN_TURN, st.frozensets(st.integers(0, 4), max_size=3)), min_size=1, max_size=6)
IN_TURN_HISTORIES = st.lists(IN_TURN_BATCHES.map(in_turn), max_size=5)

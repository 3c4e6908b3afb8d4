"""Folds the events of a page into rows. The rows are loaded in one read, and the recent ones stay in memory."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from twofold.domain.events import Position, RecordedEvent
from twofold.domain.projection import BoundProjection
from twofold.domain.tags import MAX_TAG_VALUE
from twofold.errors import UnreadableEvent
from twofold.read_store.port import CorruptRow, ReadModel, ReadStore, VersionedRow
from twofold.world import World

Work = tuple[RecordedEvent, object, str]
ABSENT = VersionedRow(None, 0)
STEP = 500
"""Events that are decoded or folded without a turn for other tasks of the loop: about a millisecond."""


class FoldFailed(Exception):
    """A fold raised for one key; the cause is chained."""

    def __init__(self, key: str, position: Position, cause: BaseException) -> None:
        what = f"{type(cause).__name__}: {cause}"[:500]
        super().__init__(f"the fold failed for key '{key}' at position {position} with {what}")
        self.__cause__ = cause
        self.key = key
        self.position = position


class EventFailed(Exception):
    """An event cannot be read, or its keys are not known; the cause is chained.

    Raised if nothing says which keys the event changes. Otherwise it takes the place of the event: no fold may see it.
    """

    def __init__(self, position: Position, cause: BaseException) -> None:
        super().__init__(f"the event at position {position} cannot be folded: {cause}")
        self.__cause__ = cause
        self.position = position


class KeyedEvents:
    """Which events touch which keys, in order. Three lists, since many tuples would trigger the garbage collector."""

    __slots__ = ("events", "keys", "recorded")

    def __init__(self, recorded: Sequence[RecordedEvent], events: Sequence[object], keys: Sequence[str]) -> None:
        self.recorded = list(recorded)
        self.events = list(events)
        self.keys = list(keys)

    def __iter__(self) -> Iterator[Work]:
        return zip(self.recorded, self.events, self.keys, strict=True)

    def __len__(self) -> int:
        return len(self.keys)

    def parts(self, size: int) -> Iterator["KeyedEvents"]:
        """The same in parts of a size, in order."""
        for start in range(0, len(self.keys), size):
            part = slice(start, start + size)
            yield KeyedEvents(self.recorded[part], self.events[part], self.keys[part])

    def extend(self, other: "KeyedEvents") -> None:
        """Add all of another."""
        self.recorded += other.recorded
        self.events += other.events
        self.keys += other.keys

    def where(self, holds: Callable[[str], bool]) -> "KeyedEvents":
        """The part with some of the keys."""
        left = KeyedEvents([], [], [])
        for recorded, event, key in self:
            if holds(key):
                left.add(recorded, event, key)
        return left

    def before(self, position: Position) -> "KeyedEvents":
        """The part with earlier events."""
        left = KeyedEvents([], [], [])
        for recorded, event, key in self:
            if recorded.position < position:
                left.add(recorded, event, key)
        return left

    def add(self, recorded: RecordedEvent, event: object, key: str) -> None:
        """Add an event and a key that it touches."""
        self.recorded.append(recorded)
        self.events.append(event)
        self.keys.append(key)


class _Row(msgspec.Struct, gc=False):
    """A row while a page is folded. It is never part of a cycle, so the garbage collector need not track it."""

    row: Any
    position: Position
    repair: int
    previous_rows: list[Any] | None = None
    changed: bool = False


class Rows:
    """The rows of one follower. It need not load what it saved last: no other node writes under its lease.

    After a save that fails, or if another node may have saved, call `forget`.
    """

    def __init__(
        self, projection: BoundProjection, model: ReadModel, read_store: ReadStore, most: int, world: World
    ) -> None:
        self._projection = projection
        self._model = model
        self._read_store = read_store
        self._most = most
        self._world = world
        self._known: dict[str, VersionedRow] = {}
        self._knows_all = False

    def start_empty(self) -> None:
        """Assume that no row is stored yet. As long as all rows fit in memory, a row that is not there is absent."""
        self._known.clear()
        self._knows_all = True

    async def fold(self, work: KeyedEvents, skips: frozenset[tuple[str, Position]]) -> dict[str, VersionedRow]:
        """The rows that `work` changes. FoldFailed if a fold raises, or if the row of a key is corrupt.

        Other tasks of this loop have a turn again and again.
        """
        try:
            rows = await self._load(work.keys)
        except CorruptRow as error:
            if error.changed:
                # The row type has changed, so this is likely true of all rows: rebuild the projection, park nothing.
                raise
            stored = await self._read_store.inspect(self._model, list(dict.fromkeys(work.keys)))
            found = next((each for each in work if each[2] in stored and stored[each[2]].corruption), None)
            if found is None:
                raise
            raise FoldFailed(found[2], found[0].position, error) from error
        folding = PageFold(self._projection, rows, skips)
        for part in work.parts(STEP):
            folding.add(part)
            await self._world.sleep(0)
        return folding.changed()

    def saved(self, changed: dict[str, VersionedRow]) -> None:
        """Keep in memory what has been saved."""
        known = self._known
        if len(known) + len(changed) > self._most:
            # The rows that were changed last are removed last.
            for key in changed:
                known.pop(key, None)
        known.update(changed)
        for key, kept in changed.items():
            if kept.previous_rows:
                known[key] = VersionedRow(kept.row, kept.position, kept.repair)
        self._trim()

    def forget(self) -> None:
        """Load all rows again from now on."""
        self._known.clear()
        self._knows_all = False

    async def _load(self, keys: Iterable[str]) -> Mapping[str, VersionedRow]:
        """The stored rows of these keys, and possibly of others."""
        known = self._known
        if self._knows_all:
            return known
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        if not missing:
            return known
        loaded = await self._read_store.load(self._model, missing)
        return {key: known[key] for key in keys if key in known} | loaded

    def _trim(self) -> None:
        excess = len(self._known) - self._most
        if excess > 0:
            self._knows_all = False
            for key in list(islice(self._known, excess)):
                del self._known[key]


def fold_all(
    projection: BoundProjection,
    work: Iterable[Work],
    rows: Mapping[str, VersionedRow],
    skips: frozenset[tuple[str, Position]] = frozenset(),
) -> dict[str, VersionedRow]:
    """The rows that `work` makes of `rows`: only those that change. FoldFailed if a fold raises.

    An event that a row contains already, by the position of the row, is left out. So are `skips` (key, position).
    """
    folding = PageFold(projection, rows, skips)
    folding.add(work)
    return folding.changed()


class PageFold:
    """The fold of one page, step by step. See `fold_all`."""

    def __init__(
        self,
        projection: BoundProjection,
        rows: Mapping[str, VersionedRow],
        skips: frozenset[tuple[str, Position]] = frozenset(),
    ) -> None:
        self._fold = projection.fold
        self._rows = rows
        self._skips = skips
        self._under_way: dict[str, _Row] = {}

    def add(self, work: Iterable[Work]) -> None:
        """Fold the next events of the page."""
        fold, rows, skips, under_way = self._fold, self._rows, self._skips, self._under_way
        for recorded, event, key in work:
            row = under_way.get(key)
            if row is None:
                kept = rows.get(key, ABSENT)
                row = under_way[key] = _Row(kept.row, kept.position, kept.repair)
            position, before = recorded.position, row.row
            if position <= row.position or (skips and (key, position) in skips):
                continue
            if type(event) is EventFailed:
                cause = event.__cause__ or event
                raise FoldFailed(key, position, cause) from cause
            try:
                after = fold(before, event, key, recorded)
            except BaseException as error:
                # SystemExit, too: the function of an app must not end the process.
                raise FoldFailed(key, position, error) from error
            if before is not None:
                if row.previous_rows is None:
                    row.previous_rows = [before]
                else:
                    row.previous_rows.append(before)
            elif after is None:
                continue
            row.row, row.position, row.changed = after, position, True

    def changed(self) -> dict[str, VersionedRow]:
        """The rows that have changed."""
        return {
            key: VersionedRow(row.row, row.position, row.repair, tuple(row.previous_rows) if row.previous_rows else ())
            for key, row in self._under_way.items()
            if row.changed
        }


def events_by_key(
    projection: BoundProjection, recorded: Sequence[RecordedEvent], events: Sequence[object]
) -> KeyedEvents:
    """The keys that these events touch. `events` are those that `decode_all` returned, in the same order.

    EventFailed if nothing says which keys one of them touches.
    """
    sole = projection.sole_key
    keys: list[str] = []
    for event in events:
        name = sole.get(type(event))
        key = None if name is None else getattr(event, name)
        if type(key) is not str or not 0 < len(key) <= MAX_TAG_VALUE or not key.isprintable():
            break
        keys.append(key)
    else:
        # Each event touches one key. This is the usual case, and the fast one.
        return KeyedEvents(recorded, events, keys)
    found = KeyedEvents([], [], [])
    for each, decoded in zip(recorded, events, strict=True):
        event, several = with_keys(projection, each, decoded)
        if several is None:
            raise event
        for one in several:
            found.add(each, event, one)
    return found


def decode_all(decode: Callable[[RecordedEvent], Any], recorded: Sequence[RecordedEvent]) -> list[Any]:
    """The events in their present shape. In place of one that cannot be read stands an EventFailed."""
    try:
        return [decode(each) for each in recorded]
    except UnreadableEvent:
        return [_decoded(decode, each) for each in recorded]


def with_keys(projection: BoundProjection, recorded: RecordedEvent, event: Any) -> tuple[Any, tuple[str, ...] | None]:
    """An event and the keys it touches. If it cannot be read or has no usable key: an EventFailed, and the keys that
    the log has it under; None if the log does not say either."""
    if type(event) is not EventFailed:
        try:
            return event, projection.keys(event)
        except BaseException as error:  # noqa: BLE001 - it is saved with what is parked
            event = EventFailed(recorded.position, error)
    return event, projection.stored_keys(recorded) or None


def _decoded(decode: Callable[[RecordedEvent], Any], recorded: RecordedEvent) -> Any:
    try:
        return decode(recorded)
    except UnreadableEvent as error:
        return EventFailed(recorded.position, error)

"""In charge of inline projections: rows folded from a command's events, and written in one commit with them."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twofold.codec import EventCodec
from twofold.codec.edge import check_text
from twofold.command_service.batcher import Batcher
from twofold.command_service.inline_build import InlineBuild
from twofold.domain.module import Wiring
from twofold.errors import InvalidMessage, Unavailable
from twofold.write_store.inline_state import InlineProjection, InlineRow, list_version
from twofold.write_store.port import Append, Outcome, RowGuard, RowWrite, WriteStore

_NOT_READY = "The inline projections are not built up yet; send it again in a moment."
_OUTDATED = (
    "Another process keeps other inline projections with this log, or other versions of them. This one writes nothing "
    "any more: start it with the newer code."
)

RowKey = tuple[str, str]
"""The space and the key of a row."""


class _KeyedEvent(NamedTuple):
    kept: InlineProjection
    key: str
    event: object


class InlineWrites:
    """Rows that are to be written with events. `failed` once they are not, and with them all that rests on them."""

    __slots__ = ("_on_top", "failed", "writes")

    def __init__(self, writes: tuple[RowWrite, ...] = ()) -> None:
        self.writes = writes
        self.failed = False
        self._on_top: list[InlineWrites] = []

    def rest_on(self, tips: Iterable["_LatestRow"]) -> None:
        """Fail when one of those fails that have made these rows."""
        for tip in tips:
            if tip.by is not None:
                tip.by._on_top.append(self)

    def fail(self) -> None:
        """Nothing of it is written, and so nothing on top of it."""
        todo = [self]
        while todo:
            rows = todo.pop()
            rows.failed = True
            todo += rows._on_top
            rows._on_top = []

    def written(self) -> None:
        """It is there: nothing can fail for its sake any more, and nobody asks what it was."""
        self._on_top = []
        self.writes = ()


class _LatestRow(NamedTuple):
    """A row as it is stored, or as `by` will leave it if it is written."""

    row: InlineRow
    by: InlineWrites | None = None


class InlineProjections:
    """The rows of inline projections, as far as they are remembered, and the appends that write them.

    A row is remembered as the last append left it that was given to the batcher, written or not: so the next command
    can be folded on top of it, and share its commit. That is safe because each row is written only on just the bytes
    it was folded from: if an append fails, those on top of it fail too, and are decided anew on what is stored. All of
    them are given up in the very moment of the failure: were it left to each command, one could go on with what
    another one has yet to give up, in turns, for ever.
    """

    def __init__(
        self, wiring: Wiring, write_store: WriteStore, events: EventCodec, batcher: Batcher, size: int
    ) -> None:
        kept = [InlineProjection(each) for each in wiring.projections.values() if each.lifecycle == "inline"]
        self.problem: str | None = _NOT_READY
        self.guards: tuple[RowGuard, ...] = ()
        self._kept = kept
        self._of = {
            event: [k for k in kept if event in k.projection.events] for k in kept for event in k.projection.events
        }
        self._write_store = write_store
        self._events = events
        self._batcher = batcher
        self._size = size
        self._known: OrderedDict[RowKey, _LatestRow] = OrderedDict()
        self._history = write_store.identity

    async def start(self, *, visit: bool) -> None:
        """Build what is new, and see to it that whoever keeps other projections writes no events from now on.

        On a visit nothing is changed: who keeps something else than the others has to refuse commands itself.
        """
        build = InlineBuild(self._write_store, self._kept, self._events)
        guard = await build.guard() if visit else await build.run()
        if guard is not None:
            self.guards = (guard,)
        self.problem = _OUTDATED if guard is None else None

    async def check(self) -> None:
        """Unavailable, for good, where another process has listed other projections since this one started."""
        (guard,) = self.guards
        if await list_version(self._write_store) != guard.expected:
            self.problem = _OUTDATED
        self.refuse()

    def refuse(self) -> None:
        """Unavailable as long as no event may be written here."""
        if self.problem is not None:
            raise Unavailable(self.problem, retry_after=10.0)

    async def rows(self, events: Sequence[object]) -> InlineWrites:
        """What `events` make of the rows they touch. To be given to `append` without waiting for anything between.

        InvalidMessage where a fold does not take an event, and then nothing may be written.
        """
        work = self._work(events) if self._of else ()
        if not work:
            return InlineWrites()
        if self._history != self._write_store.identity:
            # What was read before a fail-over may be of a history that is gone.
            self._known.clear()
            self._history = self._write_store.identity
        places = {(each.kept.space, each.key): each.kept for each in work}
        before = await self._load(places)
        try:
            after = _folded(work, before)
        except InvalidMessage:
            # It may rest on rows that are never written, or are old.
            before = await self._read(places)
            after = _folded(work, before)
        formed = {place: _formed(kept, place[1], after[place]) for place, kept in places.items()}
        writes = [RowWrite(*place, row.value, before[place].row.version, row.version) for place, row in formed.items()]
        rows = InlineWrites(tuple(writes))
        rows.rest_on(before.values())
        for place, row in formed.items():
            self._remember(place, _LatestRow(row, rows))
        return rows

    async def append(self, append: Append, events: Sequence[object], rows: InlineWrites) -> Outcome:
        """What became of `append`, as the batcher says it; rows that were not written are not remembered either."""
        try:
            outcome = await self._batcher.append(append, events, rows.fail)
        except Unavailable:
            # Also where it was not even queued.
            rows.fail()
            raise
        if not rows.failed:
            rows.written()
        return outcome

    def _work(self, events: Iterable[object]) -> list[_KeyedEvent]:
        return [
            _KeyedEvent(kept, key, event)
            for event in events
            for kept in self._of.get(type(event), ())
            for key in _keys(kept, event)
        ]

    async def _load(self, places: Mapping[RowKey, InlineProjection]) -> dict[RowKey, _LatestRow]:
        """The rows at these places, as they are remembered or stored."""
        read: dict[RowKey, _LatestRow] = {}
        while missing := [place for place in places if self._remembered(place) is None and place not in read]:
            read |= await self._read({place: places[place] for place in missing})
        return {place: self._remembered(place) or read[place] for place in places}

    def _remembered(self, place: RowKey) -> _LatestRow | None:
        tip = self._known.get(place)
        return None if tip is None or (tip.by is not None and tip.by.failed) else tip

    async def _read(self, places: Mapping[RowKey, InlineProjection]) -> dict[RowKey, _LatestRow]:
        found: dict[RowKey, _LatestRow] = {}
        for kept in dict.fromkeys(places.values()):
            keys = [key for space, key in places if space == kept.space]
            rows = await self._write_store.rows(kept.space, keys)
            found |= {(kept.space, key): _LatestRow(kept.read(key, rows.get(key))) for key in keys}
        return found

    def _remember(self, place: RowKey, tip: _LatestRow) -> None:
        self._known.pop(place, None)
        self._known[place] = tip
        while len(self._known) > self._size:
            self._known.popitem(last=False)


def _formed(kept: InlineProjection, key: str, row: Any | None) -> InlineRow:
    try:
        return kept.written(row)
    except Exception as error:
        raise InvalidMessage(
            f"The inline projection '{kept.name}' made a row for the key '{key}' that could not be read back "
            f"({type(error).__name__}: {error}), so nothing is written. Its fold has to keep to "
            f"{kept.projection.row.__name__}."
        ) from error


def _keys(kept: InlineProjection, event: object) -> tuple[str, ...]:
    try:
        keys = kept.projection.keys(event)
    except Exception as error:
        raise InvalidMessage(
            f"The inline projection '{kept.name}' has no key for a {type(event).__name__} "
            f"({type(error).__name__}: {error}), so nothing is written. Mend its `key`, or decide otherwise."
        ) from error
    for key in keys:
        check_text(key, f"the key of '{kept.name}'")
    return keys


def _folded(work: Iterable[_KeyedEvent], before: Mapping[RowKey, _LatestRow]) -> dict[RowKey, Any]:
    after: dict[RowKey, Any] = {place: tip.row.row for place, tip in before.items()}
    for kept, key, event in work:
        try:
            after[kept.space, key] = kept.projection.fold(after[kept.space, key], event, key, None)
        except Exception as error:
            raise InvalidMessage(
                f"The inline projection '{kept.name}' does not take this {type(event).__name__} into the row of the "
                f"key '{key}' ({type(error).__name__}: {error}), so nothing is written. Mend its fold, or decide "
                "otherwise."
            ) from error
    return after

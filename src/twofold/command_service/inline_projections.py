"""Inline projections: rows folded from a command's events, and written in one commit with them."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twofold.codec import EventCodec
from twofold.codec.edge import check_text
from twofold.command_service.inline_build import InlineBuild
from twofold.domain.module import Wiring
from twofold.errors import FunctionFailed, Unavailable
from twofold.write_store.inline_state import InlineFailure, InlineProjection, InlineRow, list_version
from twofold.write_store.port import LogIdentity, RowGuard, RowWrite, WriteStore

_NOT_READY = "The inline projections are still being built. Send the command again in a moment."
_OUTDATED = (
    "Another process keeps other inline projections with this log, or other versions of them. This process cannot "
    "write any more: start it with the newer code."
)

RowKey = tuple[str, str]
"""The space and the key of a row."""


class _KeyedEvent(NamedTuple):
    projection: InlineProjection
    key: str
    event: object


class InlineWrites:
    """Rows that are written together with events. `failed`: they are not written, nor any writes that build on them."""

    __slots__ = ("_dependents", "failed", "folded", "folded_on", "stored", "writes")

    def __init__(
        self,
        writes: tuple[RowWrite, ...] = (),
        folded: Mapping[RowKey, InlineRow] | None = None,
        folded_on: Sequence["_LatestRow"] = (),
    ) -> None:
        self.writes = writes
        self.failed = False
        self.folded = folded or {}
        self.folded_on = folded_on
        self._dependents: list[InlineWrites] = []
        self.stored = False

    def begin(self) -> None:
        """From now on fail if the writes fail that made the rows that these were folded on."""
        for row in self.folded_on:
            if row.by is not None and not row.by.stored:
                row.by._dependents.append(self)
        self.folded_on = ()

    def fail(self) -> None:
        """Mark these writes, and all that build on them, as failed."""
        todo = [self]
        while todo:
            writes = todo.pop()
            writes.failed = True
            todo += writes._dependents
            writes._dependents = []

    def succeed(self) -> None:
        """The rows are stored: release what is not needed any more."""
        self.stored = True
        self._dependents = []
        self.folded = {}
        self.writes = ()


class _LatestRow(NamedTuple):
    """A row as it is stored, or as the writes in `by` leave it if they succeed."""

    row: InlineRow
    by: InlineWrites | None = None


class InlineProjections:
    """The rows of inline projections that commands write, and a cache of these rows.

    A row is cached as the last append that was queued leaves it, written or not. So the next command
    can fold on it and share its commit. That is safe because a row is written only on exactly the bytes it was folded
    from: if an append fails, those that build on it fail too and are decided again on stored rows. All of them are
    marked at the moment of the failure. If each command marked only its own, a command could go on with rows that
    another command has yet to mark, in turns, without end.
    """

    def __init__(self, wiring: Wiring, write_store: WriteStore, events: EventCodec, size: int) -> None:
        inline = [InlineProjection(bound) for bound in wiring.projections.values() if bound.lifecycle == "inline"]
        self.problem: str | None = _NOT_READY
        self.guards: tuple[RowGuard, ...] = ()
        self._projections = inline
        self._by_event: dict[type, list[InlineProjection]] = {}
        for projection in inline:
            for event in projection.bound.events:
                self._by_event.setdefault(event, []).append(projection)
        self._write_store = write_store
        self._events = events
        self._size = size
        self._cached: OrderedDict[RowKey, _LatestRow] = OrderedDict()
        self._history: LogIdentity | None = None

    async def start(self, *, maintenance: bool) -> None:
        """Build what is new. From then on nodes that keep other projections cannot write events.

        If `maintenance` is set, nothing is changed: if other nodes keep other projections, this process
        refuses commands.
        """
        build = InlineBuild(self._write_store, self._projections, self._events)
        guard = await build.guard() if maintenance else await build.run()
        if guard is not None:
            self.guards = (guard,)
        self.problem = _OUTDATED if guard is None else None

    async def check(self) -> None:
        """Unavailable, until a restart, where another process has listed other projections since the start."""
        (guard,) = self.guards
        if await list_version(self._write_store) != guard.expected:
            self.problem = _OUTDATED
        self.refuse()

    def refuse(self) -> None:
        """Unavailable as long as this process cannot write events."""
        if self.problem is not None:
            raise Unavailable(self.problem, retry_after=10.0)

    def must_read(self, events: Sequence[object]) -> bool:
        """Whether `rows` may wait for the write store."""
        return bool(self._by_event) and any(type(event) in self._by_event for event in events)

    async def rows(self, events: Sequence[object]) -> InlineWrites:
        """The writes of the rows that `events` change. Call `begin` with them without awaiting anything in between.

        FunctionFailed where a projection fails on an event: then nothing may be written.
        """
        if not self._by_event:
            return InlineWrites()
        try:
            return await self._rows(self._keyed(events))
        except InlineFailure as failure:
            cause = failure.__cause__
            raise FunctionFailed(
                f"The inline projection '{failure.name}'",
                f"failed with {type(cause).__name__}, so nothing is written",
                f"{failure.what}. Fix the projection, or decide other events.",
            ) from cause

    def forget(self) -> None:
        """Others may have changed the rows: those that are needed are read again, but for what is being written."""
        self._cached = OrderedDict((key, row) for key, row in self._cached.items() if row.by and not row.by.stored)

    def begin(self, rows: InlineWrites) -> None:
        """The rows will be written with an append that is queued now. So the next command can fold on them."""
        rows.begin()
        for key, row in rows.folded.items():
            self._cache(key, _LatestRow(row, rows))

    async def _rows(self, work: Sequence[_KeyedEvent]) -> InlineWrites:
        if not work:
            return InlineWrites()
        if self._history != self._write_store.identity:
            # Rows that were read before a fail-over may belong to a history that is lost.
            self._cached.clear()
            self._history = self._write_store.identity
        projections = {(item.projection.space, item.key): item.projection for item in work}
        before = await self._load(projections)
        try:
            after = _folded(work, before)
        except InlineFailure:
            # The cached rows may be old, or never be written.
            before = await self._read(projections)
            after = _folded(work, before)
        rows = {key: projection.write(key[1], after[key]) for key, projection in projections.items()}
        writes = [RowWrite(*key, row.value, before[key].row.version, row.version) for key, row in rows.items()]
        return InlineWrites(tuple(writes), rows, tuple(before.values()))

    def _keyed(self, events: Iterable[object]) -> list[_KeyedEvent]:
        return [
            _KeyedEvent(projection, key, event)
            for event in events
            for projection in self._by_event.get(type(event), ())
            for key in _keys(projection, event)
        ]

    async def _load(self, projections: Mapping[RowKey, InlineProjection]) -> dict[RowKey, _LatestRow]:
        """The rows of these keys, from the cache or the write store."""
        read: dict[RowKey, _LatestRow] = {}
        while missing := [key for key in projections if self._from_cache(key) is None and key not in read]:
            read |= await self._read({key: projections[key] for key in missing})
        return {key: self._from_cache(key) or read[key] for key in projections}

    def _from_cache(self, key: RowKey) -> _LatestRow | None:
        row = self._cached.get(key)
        return None if row is None or (row.by is not None and row.by.failed) else row

    async def _read(self, projections: Mapping[RowKey, InlineProjection]) -> dict[RowKey, _LatestRow]:
        latest: dict[RowKey, _LatestRow] = {}
        for projection in dict.fromkeys(projections.values()):
            keys = [key for space, key in projections if space == projection.space]
            rows = await self._write_store.rows(projection.space, keys)
            latest |= {(projection.space, key): _LatestRow(projection.read(key, rows.get(key))) for key in keys}
        return latest

    def _cache(self, key: RowKey, row: _LatestRow) -> None:
        self._cached.pop(key, None)
        self._cached[key] = row
        while len(self._cached) > self._size:
            self._cached.popitem(last=False)


def _keys(projection: InlineProjection, event: object) -> tuple[str, ...]:
    keys = projection.keys(event)
    for key in keys:
        check_text(key, f"the key of '{projection.name}'")
    return keys


def _folded(work: Iterable[_KeyedEvent], before: Mapping[RowKey, _LatestRow]) -> dict[RowKey, Any]:
    after: dict[RowKey, Any] = {key: latest.row.row for key, latest in before.items()}
    for projection, key, event in work:
        place = (projection.space, key)
        after[place] = projection.fold(after[place], event, key)
    return after

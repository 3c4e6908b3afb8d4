"""In charge of inline projections at start: built from the log, listed for all nodes to keep, and thrown away."""

import logging
from collections.abc import Sequence
from typing import Any

from twofold.codec import EventCodec
from twofold.domain.event_query import NO_EVENTS, EventQuery, QueryItem
from twofold.domain.events import Metadata, Position, RecordedEvent
from twofold.errors import WiringError
from twofold.write_store.inline_state import (
    COMPLETE,
    InlineBuildState,
    InlineProjection,
    InlineRow,
    InlineState,
    read_inline_state,
    space_of,
)
from twofold.write_store.port import Append, Appended, RowGuard, RowWrite, WriteStore

log = logging.getLogger(__name__)

PAGE = 2_000
"""Events folded, or rows thrown away, in one transaction."""

_BY = Metadata(0, "inline", "inline")


class InlineBuild:
    """Brings the rows that are kept in line with the projections of this process.

    1. What is new is folded up to the head, page by page, each page with its position. Others go on meanwhile, and so
       again, as long as that brings it nearer.
    2. The list of what every node has to keep is replaced. Each append is guarded by it: from this moment on, who
       keeps other projections writes no events.
    3. So what was written before is all there is: it is folded, and the rows are complete. Who keeps the same
       projections waits for that in its own start.
    4. What is not listed any more is thrown away.

    Every step is written on what was seen, so it may be killed anywhere, and run on several nodes at once.
    """

    def __init__(self, write_store: WriteStore, kept: Sequence[InlineProjection], events: EventCodec) -> None:
        self._write_store = write_store
        self._kept = {each.label: each for each in kept}
        self._list = {each.name: each.projection.version for each in kept}
        self._events = events

    async def guard(self) -> RowGuard | None:
        """The guard under which appends may be made; None where others keep something else, or it is not built."""
        noted = await read_inline_state(self._write_store)
        built = all(_state(noted, label) == "complete" for label in self._kept)
        return noted.guard if built and noted.listed == self._list else None

    async def run(self) -> RowGuard:
        """Do all of it; the guard under which appends may be made from then on. WiringError where a fold fails."""
        before: Position | None = None
        while True:
            behind = max([await self._build(each) for each in self._kept.values()], default=0)
            noted = await read_inline_state(self._write_store)
            if noted.listed != self._list:
                if behind > PAGE and (before is None or 2 * behind < before):
                    before = behind
                    continue
                await self._replace_list(noted)
                continue
            incomplete = [label for label in self._kept if _state(noted, label) != "complete"]
            for label in incomplete:
                await self._complete(self._kept[label], noted)
            if not incomplete:
                break
        for label in noted.built.keys() - self._kept.keys():
            await self._drop(label)
        return noted.guard

    async def _build(self, kept: InlineProjection) -> Position:
        """Fold up to where the head is now, unless that was done before. How far behind it is by then."""
        target = (await self._write_store.read(NO_EVENTS)).head
        while True:
            noted = await read_inline_state(self._write_store)
            state = _state(noted, kept.label)
            if state == "complete":
                return 0
            if state == "dropping":
                await self._drop(kept.label)
            elif state is None:
                log.info("The inline projection %s is built from the log", kept.label)
                await self._append([noted.build(kept.label, InlineBuildState("building"))])
            elif (position := noted.built[kept.label][0].position) >= target:
                return (await self._write_store.read(NO_EVENTS)).head - position
            else:
                await self._fold_page(kept, noted)

    async def _fold_page(self, kept: InlineProjection, noted: InlineState) -> None:
        after = noted.built[kept.label][0].position
        page = await self._write_store.read(EventQuery((QueryItem(kept.projection.types),)), after, PAGE)
        rows = await self._folded(kept, page.events)
        await self._append([noted.build(kept.label, InlineBuildState("building", page.upto)), *rows])

    async def _folded(self, kept: InlineProjection, events: Sequence[RecordedEvent]) -> list[RowWrite]:
        work: list[tuple[RecordedEvent, object, str]] = []
        for recorded in events:
            event = self._events.decode(recorded)
            work += [(recorded, event, key) for key in _keys(kept, event, recorded)]
        keys = list(dict.fromkeys(key for _, _, key in work))
        stored = await self._write_store.rows(kept.space, keys)
        before = {key: kept.read(key, stored.get(key)) for key in keys}
        rows: dict[str, Any] = {key: each.row for key, each in before.items()}
        for recorded, event, key in work:
            try:
                rows[key] = kept.projection.fold(rows[key], event, key, None)
            except Exception as error:
                raise _failed(kept, f"its fold fails for the key '{key}' {_at(recorded)}", error) from error
        after = {key: _formed(kept, key, row) for key, row in rows.items()}
        return [RowWrite(kept.space, key, each.value, before[key].version, each.version) for key, each in after.items()]

    async def _replace_list(self, noted: InlineState) -> None:
        """List what this process keeps, and give up the rows of everything else in the same moment."""
        writes = [noted.list(self._list)]
        for label, (built, _) in noted.built.items():
            if label not in self._kept and built.state != "dropping":
                writes.append(noted.build(label, InlineBuildState("dropping")))
                if built.state == "complete":
                    # Who still answers from these rows sees that they are not kept any more.
                    writes.append(RowWrite(space_of(label), COMPLETE, None, 1))
        await self._append(writes)

    async def _complete(self, kept: InlineProjection, noted: InlineState) -> None:
        """Note that all rows are there, if that is so, and if what was noted holds: nobody can have written since."""
        if _state(noted, kept.label) != "building":
            return
        head = (await self._write_store.read(NO_EVENTS)).head
        if noted.built[kept.label][0].position < head:
            return
        complete = noted.build(kept.label, InlineBuildState("complete", head))
        await self._append([complete, RowWrite(kept.space, COMPLETE, b"", 0)], noted.guard)

    async def _drop(self, label: str) -> None:
        """Throw away the rows of what was given up."""
        space = space_of(label)
        while True:
            noted = await read_inline_state(self._write_store)
            if _state(noted, label) != "dropping":
                return
            rows = await self._write_store.rows(space, limit=PAGE)
            gone = [RowWrite(space, key, None, row.version) for key, row in rows.items()]
            if len(rows) < PAGE:
                await self._append([*gone, noted.build(label, None)])
            else:
                await self._append(gone, noted.unchanged(label))

    async def _append(self, rows: Sequence[RowWrite], *guards: RowGuard) -> bool:
        """Whether it was written; if not, another node has come first, and it is looked at anew."""
        (outcome,) = await self._write_store.append([Append(_BY, rows=tuple(rows), guards=guards)])
        return isinstance(outcome, Appended)


def _state(noted: InlineState, label: str) -> str | None:
    return noted.built[label][0].state if label in noted.built else None


def _keys(kept: InlineProjection, event: object, recorded: RecordedEvent) -> tuple[str, ...]:
    try:
        return kept.projection.keys(event)
    except Exception as error:
        raise _failed(kept, f"it has no key {_at(recorded)}", error) from error


def _formed(kept: InlineProjection, key: str, row: Any | None) -> InlineRow:
    try:
        return kept.written(row)
    except Exception as error:
        raise _failed(kept, f"the row of the key '{key}' could not be read back", error) from error


def _at(recorded: RecordedEvent) -> str:
    return f"at position {recorded.position} ('{recorded.type}')"


def _failed(kept: InlineProjection, what: str, error: Exception) -> WiringError:
    return WiringError(
        f"The inline projection '{kept.name}' cannot be built: {what}: {type(error).__name__}: {error}. Mend it, then "
        "start again: what is built already is kept."
    )

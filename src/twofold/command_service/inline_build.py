"""The build of inline projections at start: fold them from the log, list them for all nodes, delete old rows."""

import logging
from collections.abc import Sequence
from typing import Any

from twofold.codec import EventCodec
from twofold.domain.envelope import Metadata
from twofold.domain.event_query import NO_EVENTS, EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import WiringError
from twofold.write_store.inline_state import (
    COMPLETE,
    InlineBuildState,
    InlineFailure,
    InlineProjection,
    InlineState,
    read_inline_state,
    space_of,
)
from twofold.write_store.port import Append, Appended, RowGuard, RowWrite, WriteStore

log = logging.getLogger(__name__)

PAGE = 2_000
"""Events folded, or rows deleted, in one transaction."""

_BY = Metadata(0, "inline", "inline")


class InlineBuild:
    """Makes the stored rows match the projections of this process.

    1. Fold what is new up to the head, page by page, each page together with its position. Other nodes write
       meanwhile, so repeat this as long as it comes nearer to the head.
    2. Replace the list of projections that every node has to keep. Each append is guarded by the list: from now on
       nodes that keep other projections cannot write events.
    3. So the events written before are all there are: fold them. The rows are complete. Other nodes that keep the same
       projections wait for that when they start.
    4. Delete the rows of projections that are not listed any more.

    Every write is guarded by what was read before it. So the build can be interrupted at any point, and can run on
    several nodes at once.
    """

    def __init__(self, write_store: WriteStore, projections: Sequence[InlineProjection], events: EventCodec) -> None:
        self._write_store = write_store
        self._projections = {projection.label: projection for projection in projections}
        self._list = {projection.name: projection.bound.version for projection in projections}
        self._events = events

    async def guard(self) -> RowGuard | None:
        """The guard of every append. None where other nodes keep other projections, or rows are not complete."""
        state = await read_inline_state(self._write_store)
        built = all(state.stage(label) == "complete" for label in self._projections)
        return state.guard if built and state.listed == self._list else None

    async def run(self) -> RowGuard:
        """Build everything. Returns the guard of every append from then on. WiringError where a fold fails."""
        before: Position | None = None
        while True:
            behind = max([await self._build(projection) for projection in self._projections.values()], default=0)
            state = await read_inline_state(self._write_store)
            if state.listed != self._list:
                if behind > PAGE and (before is None or 2 * behind < before):
                    before = behind
                    continue
                await self._replace_list(state)
                continue
            incomplete = [label for label in self._projections if state.stage(label) != "complete"]
            for label in incomplete:
                await self._complete(self._projections[label], state)
            if not incomplete:
                break
        for label in state.built.keys() - self._projections.keys():
            await self._drop(label)
        return state.guard

    async def _build(self, projection: InlineProjection) -> Position:
        """Fold up to the present head, unless this is done. Returns how far the rows are behind the head by then."""
        label = projection.label
        target = (await self._write_store.read(NO_EVENTS)).head
        while True:
            state = await read_inline_state(self._write_store)
            stage = state.stage(label)
            if stage == "complete":
                return 0
            if stage == "dropping":
                await self._drop(label)
            elif stage is None:
                log.info("The inline projection %s is built from the log", label)
                await self._append([state.build(label, InlineBuildState("building"))])
            elif (position := state.built[label][0].position) >= target:
                return (await self._write_store.read(NO_EVENTS)).head - position
            else:
                await self._fold_page(projection, state)

    async def _fold_page(self, projection: InlineProjection, state: InlineState) -> None:
        after = state.built[projection.label][0].position
        page = await self._write_store.read(EventQuery((QueryItem(projection.bound.types),)), after, PAGE)
        rows = await self._folded(projection, page.events)
        await self._append([state.build(projection.label, InlineBuildState("building", page.upto)), *rows])

    async def _folded(self, projection: InlineProjection, events: Sequence[RecordedEvent]) -> list[RowWrite]:
        where = ""
        try:
            work: list[tuple[RecordedEvent, object, str]] = []
            for recorded in events:
                where = _at(recorded)
                event = self._events.decode(recorded)
                work += [(recorded, event, key) for key in projection.keys(event)]
            keys = list(dict.fromkeys(key for _, _, key in work))
            stored = await self._write_store.rows(projection.space, keys)
            before = {key: projection.read(key, stored.get(key)) for key in keys}
            rows: dict[str, Any] = {key: row.row for key, row in before.items()}
            for recorded, event, key in work:
                where = _at(recorded)
                rows[key] = projection.fold(rows[key], event, key)
            where = ""
            after = {key: projection.write(key, row) for key, row in rows.items()}
        except InlineFailure as failure:
            raise WiringError(
                f"The inline projection '{projection.name}' cannot be built: {failure.what}{where}. Fix it and start "
                "again: what is built is kept."
            ) from failure.__cause__
        space = projection.space
        return [RowWrite(space, key, row.value, before[key].version, row.version) for key, row in after.items()]

    async def _replace_list(self, state: InlineState) -> None:
        """List the projections of this process, and mark the rows of all others for deletion, in one write."""
        writes = [state.list(self._list)]
        for label, (built, _) in state.built.items():
            if label not in self._projections and built.state != "dropping":
                writes.append(state.build(label, InlineBuildState("dropping")))
                if built.state == "complete":
                    # Nodes that still answer from these rows see that the rows are not kept any more.
                    writes.append(RowWrite(space_of(label), COMPLETE, None, 1))
        await self._append(writes)

    async def _complete(self, projection: InlineProjection, state: InlineState) -> None:
        """Record that all rows are there, if they are. Under this guard no event can have been written since."""
        if state.stage(projection.label) != "building":
            return
        head = (await self._write_store.read(NO_EVENTS)).head
        if state.built[projection.label][0].position < head:
            return
        complete = state.build(projection.label, InlineBuildState("complete", head))
        await self._append([complete, RowWrite(projection.space, COMPLETE, b"", 0)], state.guard)

    async def _drop(self, label: str) -> None:
        """Delete the rows of a projection that is not listed any more."""
        space = space_of(label)
        while True:
            state = await read_inline_state(self._write_store)
            if state.stage(label) != "dropping":
                return
            rows = await self._write_store.rows(space, limit=PAGE)
            deletes = [RowWrite(space, key, None, row.version) for key, row in rows.items()]
            if len(rows) < PAGE:
                await self._append([*deletes, state.build(label, None)])
            else:
                await self._append(deletes, state.unchanged(label))

    async def _append(self, rows: Sequence[RowWrite], *guards: RowGuard) -> bool:
        """Whether the rows were written. If not, another node was first, and the caller reads the state again."""
        (outcome,) = await self._write_store.append([Append(_BY, rows=tuple(rows), guards=guards)])
        return isinstance(outcome, Appended)


def _at(recorded: RecordedEvent) -> str:
    return f" at position {recorded.position} ('{recorded.type}')"

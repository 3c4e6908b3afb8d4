"""The log in memory: for tests, and as the shortest explanation of what a write store does."""

import asyncio
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from twofold.domain.envelope import Envelope, encode_head
from twofold.domain.event_query import AppendCondition, EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import CommandIdReused, Conflict
from twofold.signal import Signal
from twofold.write_store.chain import chain_start, content_digest, link
from twofold.write_store.port import (
    PAGE_BYTES,
    Append,
    Appended,
    LogIdentity,
    LogRow,
    Outcome,
    RowGuard,
    RowWrite,
    Slice,
    is_written,
)


class MemoryWriteStore:
    """A write store whose content is lost when the process ends."""

    def __init__(self, log: str = "main") -> None:
        self.identity = LogIdentity(log, 1)
        self.problem: str | None = None
        self.exclusive = True
        self._events: list[tuple[RecordedEvent, frozenset[str]]] = []
        self._by_tag: dict[str, list[Position]] = {}
        self._commands: dict[str, tuple[bytes, Appended]] = {}
        self._rows: dict[str, dict[str, LogRow]] = {}
        self._news = Signal()

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        before, outcomes = len(self._events), list[Outcome]()
        for append in batch:
            outcomes.append(self._append_one(append, before, outcomes))
        self._news.fire()
        return outcomes

    async def read(
        self, query: EventQuery, after: Position = 0, limit: int | None = None, size: int = PAGE_BYTES
    ) -> Slice:
        return self._slice([AppendCondition(query, after)], limit, size)

    async def newer(
        self, conditions: Sequence[AppendCondition], command_id: str | None = None, limit: int | None = None
    ) -> tuple[Slice, Appended | None]:
        known = self._commands.get(command_id) if command_id else None
        return self._slice(conditions, limit, PAGE_BYTES), known[1] if known else None

    async def rows(
        self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
    ) -> Mapping[str, LogRow]:
        rows = self._rows.get(space, {})
        selected = rows if keys is None else [key for key in dict.fromkeys(keys) if key in rows]
        return {key: rows[key] for key in islice(selected, limit)}

    async def wait(self, after: Position, timeout: float) -> None:
        if len(self._events) <= after:
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that comes together with news.
                async with asyncio.timeout(timeout):
                    await self._news.next.wait()
            except TimeoutError:
                return

    async def close(self) -> None:
        return None

    async def retag(self, tags: Mapping[Position, Sequence[str]]) -> None:
        changed = {position: self._with_tags(position, added) for position, added in tags.items()}
        for position, event in changed.items():
            known = self._events[position - 1][1]
            self._events[position - 1] = event, frozenset(event.tags)
            for tag in set(event.tags) - known:
                insort(self._by_tag.setdefault(tag, []), position)

    def _with_tags(self, position: Position, added: Sequence[str]) -> RecordedEvent:
        if not 0 < position <= len(self._events):
            raise LookupError(f"There is no event at {position}.")
        event, tags = self._events[position - 1]
        envelope = Envelope(event.id, tuple(sorted(tags.union(added))), event.metadata)
        return RecordedEvent(position, event.type, event.version, event.payload, envelope, event.chain)

    def _append_one(self, append: Append, before: Position, outcomes: Sequence[Outcome]) -> Outcome:
        """The outcome of an append of a batch, from the head `before` the batch and the outcomes of those before it."""
        known = self._commands.get(append.command_id) if append.command_id else None
        if known is not None:
            return self._repeat(known, append)
        unseen = len(self._events) if append.rests_on is None else before
        if any(event.position <= unseen for event in self._matching(append.conditions)):
            return Conflict("An event that this decision had not seen was written first.")
        if not all(is_written(outcomes[place]) for place in append.rests_on or ()):
            return Conflict("An append that this decision rests on was not written.")
        if not all(map(self._guard_holds, append.rows)) or not all(map(self._guard_holds, append.guards)):
            return Conflict("A row that this append depends on was changed first.")
        for event in append.events:
            envelope = Envelope(event.id, event.tags, append.metadata)
            head = encode_head(event.id, append.metadata)
            chain = link(
                self._chain_at(len(self._events)), content_digest(event.type, event.version, head, event.payload)
            )
            recorded = RecordedEvent(len(self._events) + 1, event.type, event.version, event.payload, envelope, chain)
            self._events.append((recorded, frozenset(event.tags)))
            for tag in event.tags:
                self._by_tag.setdefault(tag, []).append(recorded.position)
        for row in append.rows:
            self._write_row(row)
        outcome = Appended(len(self._events), len(append.events), chain=self._chain_at(len(self._events)))
        if append.command_id:
            self._commands[append.command_id] = (append.request_hash, outcome)
        return outcome

    def _repeat(self, known: tuple[bytes, Appended], append: Append) -> Outcome:
        request_hash, first = known
        if request_hash != append.request_hash:
            return CommandIdReused(f"The command id '{append.command_id}' was already used for another request.")
        return Appended(first.position, first.count, repeated=True, chain=first.chain)

    def _matching(self, conditions: Sequence[AppendCondition]) -> Iterator[RecordedEvent]:
        positions: set[Position] = set()
        for condition in conditions:
            for item in condition.query.items:
                positions.update(p for p in self._candidates(item, condition.after) if self._is(p, item))
        return (self._events[position - 1][0] for position in sorted(positions))

    def _candidates(self, item: QueryItem, after: Position) -> Iterable[Position]:
        """Positions that may match: those of the rarest tag, or all."""
        if not item.tags:
            return range(after + 1, len(self._events) + 1)
        rarest = min((self._by_tag.get(tag, []) for tag in item.tags), key=len)
        return rarest[bisect_right(rarest, after) :]

    def _is(self, position: Position, item: QueryItem) -> bool:
        event, tags = self._events[position - 1]
        return item.matches(event.type, tags)

    def _slice(self, conditions: Sequence[AppendCondition], limit: int | None, size: int) -> Slice:
        head = len(self._events)
        events: list[RecordedEvent] = []
        held = 0
        for event in self._matching(conditions):
            if (limit is not None and len(events) == limit) or held >= size:
                upto = events[-1].position if events else 0
                return Slice(events, upto, head, self._chain_at(upto))
            events.append(event)
            held += len(event.payload)
        return Slice(events, head, head, self._chain_at(head))

    def _chain_at(self, position: Position) -> bytes:
        return self._events[position - 1][0].chain if position else chain_start(self.identity.log)

    def _guard_holds(self, row: RowWrite | RowGuard) -> bool:
        present = self._rows.get(row.space, {}).get(row.key)
        return (present.version if present else 0) == row.expected

    def _write_row(self, row: RowWrite) -> None:
        space = self._rows.setdefault(row.space, {})
        if row.value is None:
            space.pop(row.key, None)
        else:
            space[row.key] = LogRow(row.value, row.next)

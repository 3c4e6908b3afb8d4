"""Pending appends: decided by this process and queued or being written, in the order in which they will be written."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from twofold.domain.decision import Fold
from twofold.domain.envelope import Envelope
from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position, RecordedEvent
from twofold.write_store.port import Append


class SeenBoundary(msgspec.Struct, eq=False):
    """What a decision has seen of one fold: all its events up to `after`, and those of the pending appends `rests`.

    `cached` is the cached state it was taken from; `base` is `after` as it was then. `query` selects the events.
    """

    cached: object
    query: EventQuery
    base: Position
    after: Position
    rests: "tuple[PendingAppend, ...]"


class PendingAppend(msgspec.Struct, eq=False):
    """An append under way, with its decoded events and what its decision has seen.

    `number` counts up in the order of decisions. `rests`: whether it rests on others. `place` is its place in the batch
    that is being written. `position` is where it was written.
    """

    append: Append
    events: Sequence[object]
    seen: Mapping[Fold, SeenBoundary]
    number: int
    rests: bool
    place: int | None = None
    position: Position | None = None
    failed: bool = False
    _undermined: bool = False
    _waiting: "tuple[asyncio.Future[None], ...]" = ()

    @property
    def tags(self) -> Collection[str]:
        """The tags of its events."""
        events = self.append.events
        return events[0].tags if len(events) == 1 else {tag for event in events for tag in event.tags}

    @property
    def settled(self) -> bool:
        """Whether it is known to be written, or not to be."""
        return self.failed or self.position is not None

    @property
    def undermined(self) -> bool:
        """Whether an append that it rests on was not written. Then it cannot be written either."""
        return self._undermined or any(rest.failed for seen in self.seen.values() for rest in seen.rests)

    def events_of(self, fold: Fold) -> Iterator[object]:
        """The events that belong to a fold, in order."""
        for new, event in zip(self.append.events, self.events, strict=True):
            if concerns(fold, event, new.tags):
                yield event

    def recorded(self, i: int, before: Position) -> RecordedEvent:
        """Its event number i (from 0) as the log stores it, if the head was at `before`. Without the chain."""
        new = self.append.events[i]
        envelope = Envelope(new.id, new.tags, self.append.metadata)
        return RecordedEvent(before + i + 1, new.type, new.version, new.payload, envelope)

    async def wait(self) -> None:
        """Return once it is settled."""
        if not self.settled:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting += (future,)
            await future

    def settle(self, position: Position | None) -> None:
        """Note where it was written; None: it was not written, or may not have been."""
        if self.rests:
            self._undermined = self.undermined
            # If not, each would keep all before it in memory.
            for boundary in self.seen.values():
                boundary.rests = ()
        if position is None:
            self.failed = True
        else:
            self.position = position
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting = ()


class PendingAppends:
    """The pending appends of this process by the tags of their events, in order."""

    def __init__(self) -> None:
        self._all: dict[int, PendingAppend] = {}
        self._by_tag: dict[str, dict[int, PendingAppend]] = {}
        self._last = 0
        self.last_sent = 0
        """The number of the last append that was given to the store."""

    def add(self, append: Append, events: Sequence[object], seen: Mapping[Fold, SeenBoundary]) -> PendingAppend:
        """An append that was just decided on all that are here."""
        self._last += 1
        rests = any([boundary.rests for boundary in seen.values()])
        pending = PendingAppend(append, events, seen, self._last, rests)
        if append.events:
            self._all[pending.number] = pending
            for tag in pending.tags:
                self._by_tag.setdefault(tag, {})[pending.number] = pending
        return pending

    def remove(self, pending: PendingAppend) -> None:
        """Remove an append that is settled."""
        if self._all.pop(pending.number, None) is None:
            return
        for tag in pending.tags:
            of_tag = self._by_tag[tag]
            if len(of_tag) == 1:
                del self._by_tag[tag]
            else:
                del of_tag[pending.number]

    def may_be_read(self, fold: Fold) -> bool:
        """Whether a read of the log may have seen pending events of a fold.

        Then the same state says nothing: an event may have led back to it.
        """
        return any(
            pending.number <= self.last_sent and any(True for _ in pending.events_of(fold))
            for pending in self.of(fold.tags, 0)
        )

    def of(self, tags: Sequence[str], after: int) -> Sequence[PendingAppend]:
        """Those with a number above `after` whose events may belong to a fold with these tags, in order."""
        of_tag = self._by_tag.get(tags[0]) if tags else self._all
        if not of_tag:
            return ()
        newer: list[PendingAppend] = []
        for number in reversed(of_tag):
            if number <= after:
                break
            newer.append(of_tag[number])
        newer.reverse()
        return newer


def concerns(fold: Fold, event: object, tags: Sequence[str]) -> bool:
    """Whether an event with these tags belongs to a fold."""
    if type(event) not in fold.model.events:
        return False
    for tag in fold.tags:  # noqa: SIM110 -- `all` takes three times as long, for each event and fold
        if tag not in tags:
            return False
    return True


def boundary_conditions(seen: Mapping[Fold, SeenBoundary]) -> tuple[AppendCondition, ...]:
    """The append conditions of a decision that has seen this: one for each fold."""
    return tuple([AppendCondition(boundary.query, boundary.after) for boundary in seen.values()])


def rests_of(seen: Mapping[Fold, SeenBoundary]) -> list[PendingAppend]:
    """The pending appends that a decision rests on, each once."""
    return list(dict.fromkeys(rest for boundary in seen.values() for rest in boundary.rests))


def state_after(fold: Fold, state: Any, pending: PendingAppend) -> tuple[Any, bool]:
    """The state after the events of a pending append, and whether any of them belongs to the fold."""
    found = False
    for event in pending.events_of(fold):
        found = True
        state = fold.model.evolve(state, event, None)
    return state, found

"""Pending appends: decided by this process and queued or being written, in the order in which they will be written."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from twofold.domain.decision import Fold
from twofold.domain.events import Position
from twofold.write_store.port import Append

_NO_TAG = ""


class SeenBoundary:
    """What a decision has seen of one fold: all its events up to `after`, and those of the pending appends `rests`.

    `cached` is the cached state it was taken from; `base` is `after` as it was then.
    """

    __slots__ = ("after", "base", "cached", "rests")

    def __init__(self, cached: object, base: Position, rests: "tuple[PendingAppend, ...]") -> None:
        self.cached = cached
        self.base = base
        self.after = base
        self.rests = rests


class PendingAppend:
    """An append under way, with its decoded events and what its decision has seen.

    `position` is where it was written. `number` counts up in the order of decisions. `place` is its place in the batch
    that is being written. `rests`: whether it rests on others. `tags` are those of its events; "" is one of them.
    """

    __slots__ = (
        "_undermined",
        "_waiting",
        "append",
        "events",
        "failed",
        "number",
        "place",
        "position",
        "rests",
        "seen",
        "tags",
    )

    def __init__(self, append: Append, events: Sequence[object], seen: Mapping[Fold, SeenBoundary]) -> None:
        self.append = append
        self.events = events
        self.seen = seen
        self.rests = any([boundary.rests for boundary in seen.values()])
        self.tags = _tags(append)
        self.number = 0
        self.place: int | None = None
        self.position: Position | None = None
        self.failed = False
        self._undermined = False
        self._waiting: list[asyncio.Future[None]] | None = None

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

    async def wait(self) -> None:
        """Return once it is settled."""
        if not self.settled:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting = [*(self._waiting or ()), future]
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
        for future in self._waiting or ():
            if not future.done():
                future.set_result(None)
        self._waiting = None


class PendingAppends:
    """The pending appends of this process by the tags of their events, in order."""

    def __init__(self) -> None:
        self._by_tag: dict[str, dict[int, PendingAppend]] = {}
        self._last = 0
        self.last_sent = 0
        """The number of the last append that was given to the store."""

    def add(self, pending: PendingAppend) -> None:
        """Add an append that was just decided on all that are here."""
        self._last += 1
        pending.number = self._last
        for tag in pending.tags:
            self._by_tag.setdefault(tag, {})[pending.number] = pending

    def remove(self, pending: PendingAppend) -> None:
        """Remove an append that is settled."""
        for tag in pending.tags:
            of_tag = self._by_tag.get(tag)
            if of_tag is not None:
                of_tag.pop(pending.number, None)
                if not of_tag:
                    del self._by_tag[tag]

    def may_be_read(self, fold: Fold) -> bool:
        """Whether a read of the log may have seen pending events of a fold.

        Then the same state says nothing: an event may have led back to it.
        """
        return any(
            pending.number <= self.last_sent and any(True for _ in pending.events_of(fold))
            for pending in self.of(fold, 0)
        )

    def of(self, fold: Fold, after: int) -> list[PendingAppend]:
        """Those with a number above `after` whose events may belong to a fold, in order."""
        of_tag = self._by_tag.get(fold.tags[0] if fold.tags else _NO_TAG)
        if of_tag is None:
            return []
        newer: list[PendingAppend] = []
        for number in reversed(of_tag):
            if number <= after:
                break
            newer.append(of_tag[number])
        newer.reverse()
        return newer


def _tags(append: Append) -> Collection[str]:
    if len(append.events) == 1:
        return (_NO_TAG, *append.events[0].tags)
    return {_NO_TAG, *(tag for event in append.events for tag in event.tags)} if append.events else ()


def concerns(fold: Fold, event: object, tags: Sequence[str]) -> bool:
    """Whether an event with these tags belongs to a fold."""
    return type(event) in fold.model.events and all([tag in tags for tag in fold.tags])


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

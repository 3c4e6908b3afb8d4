"""Reads of the log for folds: what waits while reads are under way is read together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from twofold.domain.decision import Fold
from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position

_READERS = 2
_LONG_READS = 2
_FOLDS_AT_ONCE = 64


class FoldedState(NamedTuple):
    """A state, and the position up to which it has seen all events of its boundary.

    `events` of them were folded since a snapshot of it was read or taken.
    """

    state: Any
    upto: Position
    events: int = 0


IsLong = Callable[[], "asyncio.Future[None] | None"]
"""What a read calls where there is more than a page to read: what it waits for before it goes on, if anything."""
BringUpToDate = Callable[[Mapping[Fold, FoldedState], IsLong], Awaitable[None]]


class SharedReads:
    """Calls `bring_up_to_date` for folds, at most twice at a time: one call for all that waits meanwhile.

    A read that finds more than a page to read calls what it was given with the folds. From then on it is one of at
    most two long reads, and the others need not wait for it.
    """

    def __init__(self, bring_up_to_date: BringUpToDate) -> None:
        self._bring_up_to_date = bring_up_to_date
        self._waiting: deque[tuple[Mapping[Fold, FoldedState], asyncio.Future[None]]] = deque()
        self._reading = 0
        self._long = _LongPlaces()
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, states: Mapping[Fold, FoldedState]) -> None:
        """Bring these states up to date. Raises what reading or folding them raises."""
        if self._reading >= _READERS:
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((states, answer))
            return await answer
        self._reading += 1
        place = _Place(self._next, self._long)
        try:
            await self._bring_up_to_date(states, place.is_long)
        finally:
            place.leave()

    def _next(self) -> None:
        if not self._waiting:
            self._reading -= 1
            return
        task = asyncio.create_task(self._read_waiting(), name="twofold-load")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_waiting(self) -> None:
        place = _Place(self._next, self._long)
        together: list[tuple[Mapping[Fold, FoldedState], asyncio.Future[None]]] = []
        union: dict[Fold, FoldedState] = {}
        while self._waiting and len(union) < _FOLDS_AT_ONCE:
            together.append(self._waiting.popleft())
            union |= together[-1][0]
        try:
            await self._bring_up_to_date(union, place.is_long)
        except Exception:  # noqa: BLE001 -- each caller gets the error of its own read
            # Each gets its own error, and those whose folds can be read get none.
            for states, answer in together:
                await self._read_alone(states, place, answer)
        finally:
            for _, answer in together:
                if not answer.done():
                    answer.set_result(None)
            place.leave()

    async def _read_alone(
        self, states: Mapping[Fold, FoldedState], place: "_Place", answer: "asyncio.Future[None]"
    ) -> None:
        try:
            await self._bring_up_to_date(states, place.is_long)
        except Exception as error:  # noqa: BLE001 -- the caller gets it
            if not answer.done():
                answer.set_exception(error)


class _LongPlaces:
    """The places of long reads, given in the order in which they are asked for."""

    def __init__(self) -> None:
        self._free = _LONG_READS
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> "asyncio.Future[None] | None":
        """Take a place; if there is none, what is done when there is one."""
        if self._free:
            self._free -= 1
            return None
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        return place

    def leave(self) -> None:
        """Give a place to the next one."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1


class _Place:
    """The place of one read: among the short ones, and among the long ones once it is known to be long."""

    def __init__(self, next_short: Callable[[], None], long: _LongPlaces) -> None:
        self._long = long
        self._leave: Callable[[], None] | None = next_short
        self._is_long = False
        self._waits_for: asyncio.Future[None] | None = None

    def is_long(self) -> "asyncio.Future[None] | None":
        """Let the next short read begin, and take a place among the long ones: what it waits for, if there is none."""
        if self._is_long:
            return None
        self._is_long = True
        self.leave()
        self._waits_for = self._long.take()
        self._leave = self._leave_long
        return self._waits_for

    def leave(self) -> None:
        """Let the next one begin."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def _leave_long(self) -> None:
        place = self._waits_for
        if place is None or (place.done() and not place.cancelled()):
            self._long.leave()


def conditions(states: Mapping[Fold, FoldedState]) -> tuple[AppendCondition, ...]:
    """The append conditions of a decision on these states: one for each fold."""
    return tuple([AppendCondition(EventQuery((fold.item,)), upto) for fold, (_, upto, _) in states.items()])

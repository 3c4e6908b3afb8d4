"""Reads of the log for folds: what waits while reads are under way is read together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from twofold.domain.decision import Fold
from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position

PAGE = 5_000
"""Events read at once, so that folding a long history needs little memory."""
_READERS = 2
_FOLDS_AT_ONCE = 64


class FoldedState(NamedTuple):
    """A state, and the position up to which it has seen all events of its boundary."""

    state: Any
    upto: Position


class SharedReads:
    """Calls `bring_up_to_date` for folds, at most twice at a time: one call for all that waits meanwhile."""

    def __init__(self, bring_up_to_date: Callable[[Mapping[Fold, FoldedState]], Awaitable[None]]) -> None:
        self._bring_up_to_date = bring_up_to_date
        self._waiting: deque[tuple[Mapping[Fold, FoldedState], asyncio.Future[None]]] = deque()
        self._reading = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, states: Mapping[Fold, FoldedState]) -> None:
        """Bring these states up to date. Raises what reading or folding them raises."""
        if self._reading >= _READERS:
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((states, answer))
            return await answer
        self._reading += 1
        try:
            await self._bring_up_to_date(states)
        finally:
            self._next()

    def _next(self) -> None:
        if not self._waiting:
            self._reading -= 1
            return
        task = asyncio.create_task(self._read_waiting(), name="twofold-load")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read_waiting(self) -> None:
        together: list[tuple[Mapping[Fold, FoldedState], asyncio.Future[None]]] = []
        union: dict[Fold, FoldedState] = {}
        while self._waiting and len(union) < _FOLDS_AT_ONCE:
            together.append(self._waiting.popleft())
            union |= together[-1][0]
        try:
            await self._bring_up_to_date(union)
        except Exception:  # noqa: BLE001 -- each caller gets the error of its own read
            # Each gets its own error, and those whose folds can be read get none.
            for states, answer in together:
                await self._read_alone(states, answer)
        finally:
            for _, answer in together:
                if not answer.done():
                    answer.set_result(None)
            self._next()

    async def _read_alone(self, states: Mapping[Fold, FoldedState], answer: "asyncio.Future[None]") -> None:
        try:
            await self._bring_up_to_date(states)
        except Exception as error:  # noqa: BLE001 -- the caller gets it
            if not answer.done():
                answer.set_exception(error)


def conditions(states: Mapping[Fold, FoldedState]) -> tuple[AppendCondition, ...]:
    """The append conditions of a decision on these states: one for each fold."""
    return tuple([AppendCondition(EventQuery((fold.item,)), upto) for fold, (_, upto) in states.items()])

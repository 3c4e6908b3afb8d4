"""The order in which the commands of one process are decided that share a fold."""

import asyncio
from bisect import insort
from collections.abc import Iterable, Sequence

import msgspec

from twofold.command_service.pending import concerns
from twofold.domain.decision import Fold
from twofold.domain.events import NewEvent
from twofold.signal import Signal


class Turn(msgspec.Struct, eq=False):
    """The place of one command in the order of arrival, for each of its folds. `number` counts up with the arrivals.

    `pinned`: whether its folds are kept in the cache for it. `blocked`: whether it waits for a commit.
    """

    _turns: "Turns"
    number: int
    folds: Sequence[Fold]
    waiting: bool = False
    pinned: bool = False
    blocked: bool = False
    _wake: "asyncio.Future[None] | None" = None
    _left: "tuple[asyncio.Future[None], ...]" = ()

    def __lt__(self, other: "Turn") -> bool:
        return self.number < other.number

    def join(self) -> None:
        """From now on commands that arrived later wait for this one."""
        if not self.waiting:
            self.waiting = True
            self._turns.add(self)

    def leave(self) -> None:
        """Let the next ones go on."""
        if self.waiting:
            self.waiting = False
            self._turns.remove(self)
            self._turns.holding.discard(self)
            for future in self._left:
                if not future.done():
                    future.set_result(None)
            self._left = ()

    def hold(self) -> None:
        """Until it has left, commands that arrived later write no events of its folds: it would wait for ever."""
        self._turns.holding.add(self)

    def block(self) -> None:
        """It waits for a commit, and holds."""
        self.hold()
        self.blocked = True
        self._turns.changed.fire()

    async def left(self) -> None:
        """Return once it waits no more."""
        if self.waiting:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._left += (future,)
            await future

    async def come(self) -> None:
        """Return once no earlier command that shares a fold waits."""
        while not self._turns.is_first(self):
            self.join()
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake

    def wake(self) -> None:
        """Look again whether it is first."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Turns:
    """Commands that wait to be decided: for a read of the log, or to be decided again after a failure.

    A command that need not wait is decided at once, so most of the time nobody is in here.
    """

    def __init__(self) -> None:
        self.holding: set[Turn] = set()
        self.changed = Signal()
        """Fires when no command waits for a fold any more, or the first one of a fold waits for a commit."""
        self._waiting: dict[Fold, list[Turn]] = {}
        self._last = 0

    def arrive(self, folds: Sequence[Fold]) -> Turn:
        """The turn of a command that arrives now."""
        self._last += 1
        return Turn(self, self._last, folds)

    def is_first(self, turn: Turn) -> bool:
        """Whether no command that arrived earlier waits for one of its folds."""
        if self._waiting:
            for fold in turn.folds:
                waiting = self._waiting.get(fold)
                if waiting is not None and waiting[0] < turn:
                    return False
        return True

    def holder(self, turn: Turn, stored: Sequence[NewEvent], events: Sequence[object]) -> Turn | None:
        """A command that arrived earlier and cannot be decided as long as such events are written; None if none is."""
        for other in self.holding:
            if other < turn and any(
                concerns(fold, event, new.tags)
                for fold in other.folds
                for new, event in zip(stored, events, strict=True)
            ):
                return other
        return None

    def add(self, turn: Turn) -> None:
        """Let this command wait."""
        for fold in turn.folds:
            insort(self._waiting.setdefault(fold, []), turn)

    def remove(self, turn: Turn) -> None:
        """Remove a command that need not wait any more, and wake those that are first now."""
        for fold in turn.folds:
            waiting = self._waiting[fold]
            waiting.remove(turn)
            if waiting:
                waiting[0].wake()
            else:
                del self._waiting[fold]
                self.changed.fire()

    def waiting_for(self, folds: Iterable[Fold]) -> list[Turn]:
        """The commands that wait for any of these folds, in order of arrival."""
        return sorted({turn for fold in folds for turn in self._waiting.get(fold, ())})

    def may_decide(self, folds: Iterable[Fold]) -> bool:
        """Whether a command that waits for one of these folds may be decided before the next commit."""
        return any(fold in self._waiting and not self._waiting[fold][0].blocked for fold in folds)

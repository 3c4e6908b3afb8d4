"""Contended boundaries: other nodes write to them all the time, so their commands are decided with the log reserved."""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from twofold.command_service.turns import Turns
from twofold.domain.decision import Fold
from twofold.signal import Signal
from twofold.world import World

_DECIDING = 0.05
"""Seconds for which commands are decided while the log is reserved, beyond the decision that is being made then."""
_REMEMBERED = 1.0
"""Seconds after which no boundary is contended any more if none was read with the log reserved."""


class Contention:
    """The contended folds of this process, and the commands that wait until the log is reserved for them.

    A fold becomes contended when a command that depends on it was refused twice because of other nodes. It is not
    contended any more when the log was reserved and no other node had written to it.
    """

    def __init__(self, turns: Turns, world: World) -> None:
        self._reserved = False
        """Whether the log is reserved now, and the cached states of all contended folds are the newest."""
        self._until = 0.0
        """When the last command is decided with the log reserved; 0: none was yet."""
        self.draining = False
        """Whether new commands have to wait, so that those that wait for a reservation are not the last ones always."""
        self.reservations = 0
        """How often the log was reserved since the start."""
        self.wanted: Callable[[], None] = lambda: None
        """Called when a command begins to wait."""
        self.begun: Callable[[], None] = lambda: None
        """Called when the log is reserved and others have written."""
        self._turns = turns
        self._world = world
        self._folds: set[Fold] = set()
        self._noted = 0.0
        self._waiting: list[asyncio.Future[None]] = []
        self._drained = Signal()

    @property
    def waits(self) -> bool:
        """Whether a command waits for a reservation."""
        return bool(self._waiting)

    def must_wait(self, folds: Sequence[Fold]) -> bool:
        """Whether a command that depends on these folds is decided only with the log reserved, which it is not now.

        If it is, the command is expected to be decided now: the time for all of them begins with the first.
        """
        if not self._folds or self._folds.isdisjoint(folds):
            return False
        now = self._world.monotonic()
        if self._reserved:
            self._until = self._until or now + _DECIDING
            return now >= self._until
        if not self._waiting and now > self._noted + _REMEMBERED:
            self._folds = set()
            return False
        return True

    def note(self, folds: Iterable[Fold]) -> None:
        """Other nodes wrote first, twice: these folds are contended."""
        self._folds.update(folds)
        self._noted = self._world.monotonic()

    async def wait(self) -> None:
        """Return when the log is reserved, or nothing is contended any more. Look again then."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.wanted()
        await future

    async def drained(self) -> None:
        """Return when new commands need not wait any more."""
        while self.draining:
            await self._drained.next.wait()

    def needed(self) -> Sequence[Fold]:
        """All folds of the commands that wait in turn for a contended fold: those to read with the log reserved."""
        return list(dict.fromkeys(fold for turn in self._turns.waiting_for(self._folds) for fold in turn.folds))

    async def decide(self, changed: Iterable[Fold], enough: Callable[[], bool]) -> None:
        """Let the waiting commands decide, in turn, until all have, or there is `enough`, or 50 ms are over.

        The log is reserved, and read: of the contended folds, others have written to those that have `changed`.
        """
        remaining = self._folds.intersection(changed)
        if remaining:
            self.begun()
        self._noted = began = self._world.monotonic()
        self._reserved, self._until = True, 0.0
        self.reservations += 1
        try:
            self._wake()
            # Once at least: those that were woken continue after this task.
            await self._world.sleep(0)
            while not enough() and self._turns.may_decide(self._folds):
                left = (self._until or began + _DECIDING) - self._world.monotonic()
                if left <= 0:
                    return
                await self._world.poll(self._turns.changed.next, left)
        finally:
            self._reserved = False
            self._folds = remaining
            if not remaining:
                self._wake()

    def drain(self) -> None:
        """Let new commands wait until `fill`."""
        self.draining = True

    def fill(self) -> None:
        """New commands need not wait any more."""
        if self.draining:
            self.draining = False
            self._drained.fire()

    def forget(self) -> None:
        """Nothing is contended any more: those that wait are decided like all others."""
        self._folds = set()
        self.fill()
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

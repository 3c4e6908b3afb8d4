"""Budgets of memory: the bytes that requests and answers in progress may hold, and who is cut off for others."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from twofold.errors import Unavailable
from twofold.http.limits import Limits
from twofold.signal import Signal, wait_for
from twofold.world import World

SMALL = 16_384
"""Bytes up to which a body or an answer is not counted: the number of requests limits them."""
GRACE = 1.0
"""Seconds that a client may hold memory although others need it."""


class CutOff(Exception):
    """The client of this answer read too slowly while others needed the memory: the answer stays unfinished."""


class Holding:
    """The bytes that one request or stream holds."""

    __slots__ = ("_budget", "cancel", "since", "size", "was_cut")

    def __init__(self, budget: "Budget") -> None:
        self._budget = budget
        self.size = 0
        self.since = 0.0
        self.was_cut = False
        self.cancel: Callable[[], object] | None = None
        """Ends what holds the bytes; None while it cannot be cut off."""

    def resize(self, size: int) -> None:
        """Hold this many bytes from now on. Unavailable, and no change, where there is no room for them."""
        if not self._budget.try_resize(self, size):
            raise Unavailable("Too much data is on its way to and from other clients. Send the request again.")

    async def resize_in_turn(self, size: int) -> None:
        """Hold this many bytes, once there is room: others are cut off for it after a second at most."""
        while not self._budget.try_resize(self, size):
            await self._budget.change()

    def release(self) -> None:
        """Hold nothing any more."""
        self._budget.try_resize(self, 0)

    @contextmanager
    def cut_off_here(self) -> Generator[None]:
        """Within this context the task may be cut off; then CutOff is raised. At its end the bytes are released."""
        task = asyncio.current_task()
        self.cancel = None if task is None else task.cancel
        try:
            yield
        except asyncio.CancelledError:
            if not self.was_cut or task is None or task.uncancel() > 0:
                raise
            raise CutOff from None
        finally:
            self.cancel = None
            self.release()


class SharedHolding:
    """Bytes that several streams send at the same time: held once, until the last of them has sent them.

    If they are cut off, so are all streams that have not sent them by then.
    """

    def __init__(self, budget: "Budget", size: int) -> None:
        self._holding = budget.begin()
        self._size = size if size > SMALL else 0
        self._streams: set[Holding] = set()

    @contextmanager
    def held_for(self, stream: Holding) -> Generator[None]:
        """Hold the bytes within this context. Unavailable where there is no room for them."""
        self._holding.resize(self._size)
        self._holding.cancel = self._cut_off
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._holding.release()

    def _cut_off(self) -> None:
        for stream in self._streams:
            stream.was_cut = True
            if stream.cancel is not None:
                stream.cancel()


class Budget:
    """Bytes that may be held at once.

    What a client sends or reads slowly is held long. Where there is no room, the client that has held its bytes longest
    is cut off, if it has done so for more than `GRACE` seconds.
    """

    def __init__(self, world: World, limit: int) -> None:
        self._world = world
        self._limit = limit
        self._holdings: dict[Holding, None] = {}
        self._changed = Signal()
        self.used = 0

    def begin(self) -> Holding:
        """A holding, of no bytes yet."""
        return Holding(self)

    def try_resize(self, holding: Holding, size: int) -> bool:
        """Whether the holding has this many bytes now; if not, there is no room, and nothing has changed."""
        # What is larger than the budget may have all of it.
        size = min(size, self._limit)
        while size > holding.size and self.used + size - holding.size > self._limit:
            if not self._cut_off_slowest(holding):
                return False
        if size < holding.size:
            self._changed.fire()
        if holding.size == 0:
            holding.since = self._world.monotonic()
        self.used += size - holding.size
        holding.size = size
        if size:
            self._holdings[holding] = None
        else:
            self._holdings.pop(holding, None)
        return True

    async def change(self) -> None:
        """Return when bytes were released, or a holding may have become old enough to be cut off."""
        await wait_for(self._changed.next, GRACE / 4, self._world)

    def _cut_off_slowest(self, asking: Holding) -> bool:
        now = self._world.monotonic()
        for holding in self._holdings:
            if holding.since + GRACE > now:
                return False
            if holding.cancel is not None and holding is not asking:
                holding.was_cut = True
                holding.cancel()
                holding.cancel = None
                self.try_resize(holding, 0)
                return True
        return False


class Budgets:
    """The budgets of one server: for bodies that arrive or are worked on, and for answers on their way."""

    def __init__(self, world: World, limits: Limits) -> None:
        self.bodies = Budget(world, limits.bodies_bytes)
        self.answers = Budget(world, limits.answers_bytes)
        self.turns = asyncio.Semaphore(4)
        """Those who read pages of events for an answer: a page that is read and not yet counted must be one of few."""

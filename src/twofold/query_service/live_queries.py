"""Live queries: equal ones share one computation for each change, which is paced by what it costs."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import msgspec

from twofold.domain.actor import Actor
from twofold.domain.events import Position
from twofold.loop_time import LoopTime
from twofold.signal import Signal, first_of
from twofold.world import World

_REST = 5.0
"""Seconds between two computations for each second that the first one took of the event loop, with its answers sent: so
all live queries together take about a sixth of it."""
_LONGEST_REST = 5.0
"""Seconds."""

NOTHING_SEEN: Hashable = object()
"""The state of a listener that has had no answer yet."""

Spend = Callable[[float], None]
"""Takes the seconds that the event loop spent on sending an answer."""


_encode = msgspec.json.Encoder(order="deterministic").encode


def live_key(query: object, actor: Actor | None, render: Callable[..., Any] | None) -> Hashable:
    """Equal for queries with the same answers: `actor` is who asks, where the answer depends on that."""
    try:
        return type(query), _encode(query), _encode(actor), render
    except (TypeError, ValueError):
        # In Python a query may have what JSON has not. It shares nothing.
        return object()


class Computed(NamedTuple):
    """An answer, and its state: equal for answers that need not be sent again."""

    state: object
    position: Position
    parked: bool
    publish: Callable[[Spend], Any]


class Published(NamedTuple):
    """An answer as all its listeners get it, and the number of its computation."""

    number: int
    state: object
    position: Position
    parked: bool
    value: Any


class _Listener(NamedTuple):
    """What a listener has: the state of its last answer, and the number of a computation. It waits for a later one."""

    seen: object
    after: int


FeedResult = Published | BaseException | None
Waiter = asyncio.Future[FeedResult]


class AnswerFeed:
    """The answers to one query, for all who listen to it at the same time. It keeps no answer."""

    def __init__(
        self,
        compute: Callable[[], Awaitable[Computed]],
        world: World,
        moved: Signal,
        pause: float,
        count: Callable[[], int],
    ) -> None:
        self._compute = compute
        self._world = world
        self._moved = moved
        self._pause = pause
        self._count = count
        self._waiting: dict[Waiter, _Listener] = {}
        self._wanted = asyncio.Event()
        self._arrived = asyncio.Event()
        self._state: object = NOTHING_SEEN
        self._ended = False
        self._cost = 0.0
        self.begun = 0
        """The number of the last computation that has begun."""
        self.listeners = 0
        self.task = asyncio.create_task(self._run(), name="twofold-live")

    async def next(self, seen: object, after: int) -> Published | None:
        """The first answer of a computation after number `after` whose state is not `seen`; None at the end.

        Raises what the computation raises.
        """
        if self._ended:
            return None
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = listener = _Listener(seen, after)
        self._arrived.set()
        if self._lacks(listener):
            self._wanted.set()
        try:
            published = await waiter
        finally:
            self._waiting.pop(waiter, None)
        if isinstance(published, BaseException):
            raise published
        return published

    def of_listener(self, computed: Computed) -> Published:
        """An answer that a listener has computed for itself. Computations that had begun before may be older."""
        return Published(self.begun, computed.state, computed.position, computed.parked, computed.publish(self.spend))

    def spend(self, seconds: float) -> None:
        """Count seconds of the event loop that sending an answer took: the next computation comes later for it."""
        self._cost += seconds

    def end(self) -> None:
        """No more answers: who waits for one gets None."""
        self._ended = True
        self.task.cancel()
        self._tell(self._waiting, None)

    async def _run(self) -> None:
        while True:
            moved = self._moved.next
            self._cost = 0.0
            self.begun += 1
            step = LoopTime(self._step(self.begun), self._world)
            (error,) = await asyncio.gather(step, return_exceptions=True)
            self.spend(step.seconds)
            if error is not None:
                self._state = NOTHING_SEEN
                self._tell(self._waiting, error)
            del error
            self._wanted.clear()
            if any(map(self._lacks, self._waiting.values())):
                self._wanted.set()
            await self._rest(moved, self._world.monotonic())

    def _lacks(self, listener: _Listener) -> bool:
        """Whether a listener needs another computation, even if nothing changes any more."""
        return listener.seen is NOTHING_SEEN or listener.seen != self._state

    async def _step(self, number: int) -> None:
        computed = await self._compute()
        self._state = state = computed.state
        waiting = [waiter for waiter, (seen, after) in self._waiting.items() if after < number and seen != state]
        if waiting:
            value = computed.publish(self.spend)
            self._tell(waiting, Published(number, state, computed.position, computed.parked, value))

    def _tell(self, waiting: Iterable[Waiter], result: FeedResult) -> None:
        for waiter in list(waiting):
            # Now, not when it wakes: until then it would look as if it still lacked the answer.
            del self._waiting[waiter]
            if not waiter.done():
                waiter.set_result(result)

    async def _rest(self, moved: asyncio.Event, ended: float) -> None:
        """Return when the answer may have changed or a listener lacks it, if it is time for another computation."""
        # Notifications are hints only: what another process changes sends none.
        with suppress(TimeoutError):
            await self._world.within(self._pause, first_of(moved, self._wanted))
        while (left := ended + min(_REST * self._cost * self._count(), _LONGEST_REST) - self._world.monotonic()) > 0:
            await self._world.sleep(left)
        # Without listeners that wait there is nobody to compute for.
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()


class LiveQueries:
    """The feeds of all live queries of a process."""

    def __init__(self, world: World, moved: Signal) -> None:
        self._world = world
        self._moved = moved
        self._feeds: dict[Hashable, AnswerFeed] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._feeds)

    @asynccontextmanager
    async def listening(
        self, key: Hashable, compute: Callable[[], Awaitable[Computed]], pause: float
    ) -> AsyncGenerator[AnswerFeed]:
        """The feed of all listeners with an equal `key`. It ends with the last of them."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = AnswerFeed(compute, self._world, self._moved, pause, lambda: len(self._feeds))
            self._tasks.add(feed.task)
            feed.task.add_done_callback(self._tasks.discard)
        feed.listeners += 1
        try:
            yield feed
        finally:
            feed.listeners -= 1
            if not feed.listeners:
                feed.end()
                if self._feeds.get(key) is feed:
                    del self._feeds[key]

    async def end(self) -> None:
        """End all feeds, and with them their listeners. Returns when nothing is computed any more."""
        for feed in self._feeds.values():
            feed.end()
        self._feeds.clear()
        await asyncio.gather(*self._tasks, return_exceptions=True)

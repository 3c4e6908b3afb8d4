"""Equal live queries are computed once for each change, at a pace set by their cost; no listener waits for another."""

import asyncio
from typing import Any

import pytest

from twofold.errors import Unavailable
from twofold.query_service.live_queries import NOTHING_SEEN, AnswerFeed, Computed, LiveQueries, Published
from twofold.signal import Signal
from twofold.testing.frozen_world import FrozenWorld

POLL = 1_000.0


class BusyWorld(FrozenWorld):
    """A world in which work can take time."""

    def work(self, seconds: float) -> None:
        self._passed += seconds


class Source:
    """A value to be asked for live, and how often it was computed."""

    def __init__(self) -> None:
        self.world = BusyWorld()
        self.moved = Signal()
        self.live = LiveQueries(self.world, self.moved)
        self.value: Any = 0
        self.seconds = 0.0
        self.computed = self.published = 0
        self.gate: asyncio.Event | None = None

    async def compute(self) -> Computed:
        self.computed += 1
        value = self.value
        self.world.work(self.seconds)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(value, Exception):
            raise value

        def publish(spend: Any) -> Any:
            self.published += 1
            return value

        return Computed(value, value, False, publish)

    async def change(self, value: Any) -> None:
        self.value = value
        self.moved.fire()
        await self.world.settle()

    def listen(self, key: str = "q") -> "ListeningTask":
        return ListeningTask(self, key)


class ListeningTask:
    """A listener that takes each answer as soon as it comes, unless it is `busy`."""

    def __init__(self, source: Source, key: str) -> None:
        self._source = source
        self._key = key
        self.free = asyncio.Event()
        self.free.set()
        self.seen: list[Any] = []
        self.feed: AnswerFeed | None = None
        self.cost = 0.0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        state, after = NOTHING_SEEN, 0
        async with self._source.live.listening(self._key, self._source.compute, POLL) as self.feed:
            while (published := await self.feed.next(state, after)) is not None:
                state, after = published.state, published.number
                self.seen.append(published.value)
                self.feed.spend(self.cost)
                await self.free.wait()

    async def leave(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def test_equal_queries_are_computed_once_for_each_change() -> None:
    source = Source()
    listeners = [source.listen() for _ in range(10)]
    await source.world.settle()
    for value in (1, 2, 3):
        await source.change(value)
    assert [listener.seen for listener in listeners] == [[0, 1, 2, 3]] * 10
    assert (source.computed, source.published) == (4, 4)
    await source.live.end()


async def test_an_answer_that_has_not_changed_is_not_sent_again() -> None:
    source = Source()
    listener = source.listen()
    await source.world.settle()
    await source.change(0)
    assert (listener.seen, source.computed, source.published) == ([0], 2, 1)
    await source.live.end()


async def test_a_listener_that_comes_later_gets_the_present_answer_and_no_other_gets_it_twice() -> None:
    source = Source()
    first = source.listen()
    await source.world.settle()
    second = source.listen()
    await source.world.settle()
    assert (first.seen, second.seen) == ([0], [0])
    await source.change(1)
    assert (first.seen, second.seen) == ([0, 1], [0, 1])
    await source.live.end()


async def test_a_slow_listener_holds_nobody_and_gets_the_last_answer_when_it_is_free() -> None:
    source = Source()
    slow, fast = source.listen(), source.listen()
    slow.free.clear()
    await source.world.settle()
    for value in (1, 2, 3):
        await source.change(value)
    assert (slow.seen, fast.seen) == ([0], [0, 1, 2, 3])
    slow.free.set()
    await source.world.settle()
    assert (slow.seen, fast.seen) == ([0, 3], [0, 1, 2, 3])
    await source.live.end()


async def test_nothing_is_computed_while_all_listeners_are_busy() -> None:
    source = Source()
    listener = source.listen()
    listener.free.clear()
    await source.world.settle()
    for value in (1, 2, 3):
        await source.change(value)
    assert source.computed == 1
    listener.free.set()
    await source.world.settle()
    assert (listener.seen, source.computed) == ([0, 3], 2)
    await source.live.end()


async def test_an_error_is_told_to_each_listener_and_the_next_one_starts_anew() -> None:
    source = Source()
    listeners = [source.listen() for _ in range(3)]
    await source.world.settle()
    await source.change(Unavailable("away"))
    for listener in listeners:
        with pytest.raises(Unavailable, match="away"):
            await listener.task
    assert len(source.live) == 0
    source.value = 7
    later = source.listen()
    await source.world.settle()
    assert later.seen == [7]
    await source.live.end()


async def test_a_busy_listener_is_answered_after_an_error_of_another_time() -> None:
    source = Source()
    busy, other = source.listen(), source.listen()
    busy.free.clear()
    await source.world.settle()
    await source.change(Unavailable("away"))
    with pytest.raises(Unavailable):
        await other.task
    source.value = 0
    new = source.listen()
    await source.world.settle()
    assert new.seen == [0], "it does not wait for a change"
    busy.free.set()
    await source.world.settle()
    await source.change(1)
    assert (busy.seen, new.seen) == ([0, 1], [0, 1])
    await source.live.end()


async def test_nothing_is_left_when_the_last_listener_leaves() -> None:
    source = Source()
    source.seconds = 0.1
    tasks = asyncio.all_tasks()
    listeners = [source.listen(key) for key in ("a", "a", "b") for _ in range(5)]
    await source.world.settle()
    await source.change(1)
    assert len(source.live) == 2
    for listener in listeners[:-1]:
        await listener.leave()
    assert len(source.live) == 1
    source.gate = asyncio.Event()
    await source.world.advance(10.0)
    # The last one leaves while its answer is computed.
    await source.change(2)
    await listeners[-1].leave()
    await source.world.settle()
    assert (len(source.live), source.world.sleeping) == (0, 0)
    assert asyncio.all_tasks() == tasks


async def test_the_end_of_all_feeds_ends_their_listeners() -> None:
    source = Source()
    listeners = [source.listen(key) for key in ("a", "b")]
    await source.world.settle()
    listeners[0].free.clear()
    await source.live.end()
    await source.world.settle()
    listeners[0].free.set()
    await asyncio.wait_for(asyncio.gather(*(listener.task for listener in listeners)), 30)


# ----------------------------------------------------------------------------------------------------------------- pace


async def test_the_next_computation_waits_five_times_as_long_as_the_last_one_took() -> None:
    source = Source()
    source.seconds = 0.1
    listener = source.listen()
    await source.world.settle()
    for value in range(1, 50):
        await source.change(value)
        await source.world.advance(0.1)
    # Each takes 0.1 seconds and a rest of 0.5: of 49 changes in about 6 seconds one in five is answered.
    assert 8 <= source.computed <= 12
    await source.world.advance(1.0)
    assert listener.seen[-1] == 49
    await source.live.end()


async def test_what_sending_costs_delays_the_next_computation_too() -> None:
    source = Source()
    listener = source.listen()
    listener.cost = 0.5
    await source.world.settle()
    await source.change(1)
    await source.world.advance(2.4)
    assert (listener.seen, source.computed) == ([0], 1)
    await source.world.advance(0.2)
    assert listener.seen == [0, 1]
    await source.live.end()


async def test_many_different_queries_share_the_time_that_one_may_take() -> None:
    source = Source()
    source.seconds = 0.1
    listeners = [source.listen(f"q-{n}") for n in range(5)]
    await source.world.settle()
    source.computed = 0
    source.value = 1
    source.moved.fire()
    await source.world.advance(1.9)
    assert source.computed == 0
    await source.world.advance(2.0)
    assert [listener.seen for listener in listeners] == [[0, 1]] * 5
    await source.live.end()


async def test_a_computation_that_waits_for_a_store_costs_nothing() -> None:
    source = Source()
    source.gate = asyncio.Event()
    listener = source.listen()
    await source.world.advance(60.0)
    source.gate.set()
    await source.world.settle()
    await source.change(1)
    assert listener.seen == [0, 1]
    await source.live.end()


async def test_a_listener_that_has_answered_itself_gets_nothing_that_was_begun_before() -> None:
    source = Source()
    source.gate = asyncio.Event()
    async with source.live.listening("q", source.compute, POLL) as feed:
        await source.world.settle()
        source.value = 5
        own: Published = feed.of_listener(Computed(5, 5, False, lambda spend: 5))
        following = asyncio.create_task(feed.next(own.state, own.number))
        source.gate.set()
        await source.world.settle()
        assert not following.done(), "an answer that was begun before may be older"
        await source.change(6)
        published = await following
        assert published is not None and published.value == 6

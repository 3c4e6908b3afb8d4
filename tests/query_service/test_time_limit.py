"""An answer that was asked for with a position is never late by more than its own timeout, whatever hangs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.sample_domains.counters import Count, TotalOf, counters
from twofold import App, Settings, Unavailable
from twofold.query_service.time_limit import TimeLimit
from twofold.receipt import Answer
from twofold.testing.frozen_world import FrozenWorld

WAIT = 5.0


class Hanging:
    """A call that never returns. With `stubborn` not even when it is cancelled."""

    def __init__(self, stubborn: bool) -> None:
        self._stubborn = stubborn
        self._never = asyncio.Event()
        self.called = self.cancelled = 0

    async def __call__(self, *_: Any, **__: Any) -> Any:
        self.called += 1
        try:
            await self._never.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if self._stubborn:
                await self._never.wait()
            raise

    def end(self) -> None:
        self._never.set()


@pytest.fixture
def world() -> FrozenWorld:
    return FrozenWorld()


@pytest.fixture
async def app(world: FrozenWorld) -> AsyncIterator[App]:
    settings = Settings(wait_seconds=WAIT)
    async with App(counters(), write_store="memory:", read_store="memory:", settings=settings, world=world) as app:
        yield app


async def token(app: App, world: FrozenWorld) -> str:
    """The position of an event that the read model has."""
    receipt = await app.send(Count(["a"], 1))
    await world.advance(2.0)
    assert (await app.ask(TotalOf("a"))).position == receipt.position
    return receipt.token


async def asked(app: App, position: str) -> Answer:
    return await app.ask(TotalOf("a"), position=position)


async def listened(app: App, position: str) -> Answer:
    answer: Answer = await anext(app.live(TotalOf("a"), position=position))
    return answer


async def test_a_check_of_the_position_that_hangs_is_given_up_and_the_read_store_answers(
    app: App, world: FrozenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = await token(app, world)
    hanging = Hanging(stubborn=False)
    monkeypatch.setattr(app._tokens, "position_of", hanging)
    asking = asyncio.create_task(asked(app, position))
    await world.advance(0.9)
    assert (hanging.called, hanging.cancelled, asking.done()) == (1, 0, False)
    await world.advance(0.2)
    assert hanging.cancelled == 1
    assert (await asking).position >= 1
    # The next one does not wait for a log that is away.
    assert (await asked(app, position)).position >= 1
    assert hanging.called == 1


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("hangs", ["lookup", "check of generations"])
async def test_an_answer_with_a_position_is_late_by_its_timeout_at_most(
    app: App, world: FrozenWorld, monkeypatch: pytest.MonkeyPatch, hangs: str, stubborn: bool
) -> None:
    position = await token(app, world)
    hanging = Hanging(stubborn)
    assert app._running is not None
    place: tuple[Any, str] = {
        "lookup": (app._running.read_store, "lookup"),
        "check of generations": (app.queries._monotonic, "lagging"),
    }[hangs]
    monkeypatch.setattr(*place, hanging)
    asking = asyncio.create_task(asked(app, position))
    await world.advance(2 * WAIT - 0.1)
    assert (hanging.called, hanging.cancelled, asking.done()) == (1, 0, False)
    await world.advance(0.2)
    assert hanging.cancelled == 1
    assert asking.done(), "the caller has its answer, whatever the store does"
    with pytest.raises(Unavailable, match="too slow or too busy"):
        await asking
    hanging.end()


async def test_a_first_live_answer_with_a_position_has_the_same_limit(
    app: App, world: FrozenWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    position = await token(app, world)
    answer = app.queries.answer
    hanging = Hanging(stubborn=True)

    async def hangs_with_a_position(read_store: Any, query: object, at_least: int, timeout: float) -> Any:
        if at_least:
            return await hanging()
        # What others have is not new enough.
        return (await answer(read_store, query, at_least, timeout))._replace(position=0)

    monkeypatch.setattr(app.queries, "answer", hangs_with_a_position)
    listening = asyncio.create_task(listened(app, position))
    await world.advance(2 * WAIT - 0.1)
    assert (hanging.called, listening.done()) == (1, False)
    await world.advance(0.2)
    assert listening.done()
    with pytest.raises(Unavailable, match="too slow or too busy"):
        await listening
    hanging.end()


async def test_a_short_timeout_leaves_a_second_for_reading(world: FrozenWorld) -> None:
    limit, hanging = TimeLimit(world), Hanging(stubborn=False)
    waiting = asyncio.create_task(limit.within(hanging(), 0.01))
    await world.advance(1.0)
    assert not waiting.done()
    await world.advance(0.02)
    with pytest.raises(Unavailable):
        await waiting


@pytest.mark.parametrize("error", [KeyError("no"), TimeoutError("of its own"), Unavailable("away")])
async def test_errors_of_the_work_stay_as_they_are(world: FrozenWorld, error: Exception) -> None:
    async def fails() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await TimeLimit(world).within(fails(), 1.0)
    assert caught.value is error


async def test_a_caller_that_is_cancelled_cancels_the_work(world: FrozenWorld) -> None:
    hanging = Hanging(stubborn=False)
    waiting = asyncio.create_task(TimeLimit(world).within(hanging(), 60.0))
    await world.settle()
    waiting.cancel()
    await world.settle()
    assert (waiting.cancelled(), hanging.cancelled) == (True, 1)

"""An app that is started and stopped at bad moments answers every caller, and releases everything."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, counters
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.policy import Policy
from twofold.errors import Unavailable, WiringError
from twofold.write_store.chain import chain_digest


def in_memory() -> App:
    return App(counters(), write_store="memory:", read_store="memory:")


async def test_a_command_that_is_written_while_the_app_stops_gets_its_receipt() -> None:
    app = in_memory()
    await app.start()
    running = app._running
    assert running is not None
    sent = [asyncio.create_task(app.send(Count([f"c{n}"]))) for n in range(3)]
    await asyncio.sleep(0)
    await app.stop()
    receipts = await asyncio.gather(*sent)
    events = (await running.write_store.read(ALL_EVENTS)).events
    expected = [(event.position, f"main.1.{chain_digest(event.chain)}.{event.position}") for event in events]
    assert [(receipt.position, receipt.token) for receipt in receipts] == expected
    assert [event.position for event in events] == [1, 2, 3]


async def test_an_app_that_runs_is_not_started_again() -> None:
    async with in_memory() as app:
        await app.send(Count(["a"]))
        with pytest.raises(WiringError, match="is running already"):
            await app.start()
        assert (await app.send(Count(["a"]))).position == 2


async def test_what_fails_while_stopping_does_not_keep_the_rest_from_being_released(tmp_path: Path) -> None:
    app = app_in(tmp_path)
    await app.start()
    running = app._running
    assert running is not None
    close = running.read_store.close

    async def fail() -> None:
        await close()
        raise Unavailable("the disk is gone")

    running.read_store.close = fail  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="the disk is gone"):
        await app.stop()
    async with app_in(tmp_path) as again:
        assert (await again.send(Count(["a"]))).position == 1


async def test_a_stop_that_is_cancelled_releases_everything_and_leaves_no_caller_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_in(tmp_path)
    await app.start()
    running = app._running
    assert running is not None
    never = asyncio.Event()
    asked = asyncio.Event()

    async def stuck(batch: Sequence[Any]) -> list[Any]:
        asked.set()
        await never.wait()
        raise AssertionError(batch)

    monkeypatch.setattr(running.write_store, "append", stuck)
    sent = [asyncio.create_task(app.send(Count(["a"])))]
    await asked.wait()
    sent += [asyncio.create_task(app.send(Count(["a"]))) for _ in range(2)]
    await until(lambda: len(running.batcher._queue) == 2, "queued")
    stopping = asyncio.create_task(app.stop())
    await until(lambda: running.batcher._closing, "stopping")
    stopping.cancel()
    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(*sent, stopping, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3 + [asyncio.CancelledError]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("twofold-")]
    async with app_in(tmp_path) as again:
        assert (await again.send(Count(["a"]))).position == 1


async def test_a_stop_that_is_cancelled_while_a_follower_ends_still_ends_its_timer(tmp_path: Path) -> None:
    async def slow_to_end(event: Counted) -> None:
        reacting.set()
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await let_go.wait()

    reacting, ending, let_go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    app = app_in(tmp_path, counters(policies=[Policy("slow", slow_to_end)]))
    await app.start()
    await app.send(Count(["a"]))
    await reacting.wait()
    stopping = asyncio.create_task(app.stop())
    await ending.wait()
    stopping.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(stopping, return_exceptions=True)
        let_go.set()
        await until(
            lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith("twofold-")], "ended"
        )
    async with app_in(tmp_path) as again:
        assert (await again.send(Count(["a"]))).position == 2

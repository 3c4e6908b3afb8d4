"""Many commands that are due at once are sent many at a time, each once; those of one key in order of time."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in
from tests.sample_domains.counters import Count, CounterId
from tests.synchronization.policy_helpers import MARK, Note, Noted, answers, parked_keys, passes, with_keys
from twofold.app import App
from twofold.command_service.batcher import Batcher
from twofold.domain.policy import Later
from twofold.errors import Unavailable
from twofold.synchronization.due_queue import DueQueue
from twofold.synchronization.policy_rows import Due
from twofold.testing import FrozenWorld


async def later(event: Noted) -> Later:
    return Later(Count([event.counter], MARK + event.by), timedelta(seconds=100 - event.by / 1000))


def senders(app: App, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], asyncio.Event, dict[int, int]]:
    """What is being sent, an event to let it go on, and how often some still fail."""
    running = app._running
    assert running is not None
    reactor: Any = next(w.follower for s, w in running.synchronization.supervisor.workers.items() if s.kind == "policy")
    send = reactor._due._sender._send
    sending: list[int] = []
    go, fails = asyncio.Event(), dict[int, int]()

    async def slowly(command: Count, *args: Any, **options: Any) -> Any:
        sending.append(command.by)
        await go.wait()
        if fails.get(command.by, 0):
            fails[command.by] -= 1
            raise Unavailable("away")
        return await send(command, *args, **options)

    monkeypatch.setattr(reactor._due._sender, "_send", slowly)
    return sending, go, fails


async def test_due_commands_are_sent_at_the_same_time_but_no_more_than_the_setting_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = FrozenWorld()
    async with app_in(tmp_path, with_keys(later), world=world, poll_seconds=900, policy_concurrency=7) as app:
        for by in range(20):
            await app.send(Note(f"n-{by}", by))
        await passes(world, app, 10)
        sending, go, _ = senders(app, monkeypatch)
        await passes(world, app, 100)
        # In order of time.
        assert sending == [MARK + by for by in range(19, 12, -1)]
        go.set()
        await passes(world, app, 1)
        assert sorted(await answers(app)) == [MARK + by for by in range(20)]


@pytest.mark.parametrize("times", [1, 8], ids=["once", "until it is shown as parked"])
async def test_due_commands_of_one_key_keep_their_order_though_one_fails_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    world = FrozenWorld()
    async with app_in(tmp_path, with_keys(later), world=world, poll_seconds=900) as app:
        for by in range(6):
            await app.send(Note("ab"[by % 2], by))
        await passes(world, app, 10)
        _, go, fails = senders(app, monkeypatch)
        go.set()
        fails[MARK + 4] = times
        await passes(world, app, 90.5)
        assert await answers(app) == [MARK + 5, MARK + 3, MARK + 1]
        await passes(world, app, 300)
        assert await answers(app) == [MARK + by for by in (5, 3, 1, 4, 2, 0)]
        assert await parked_keys(app) == []


async def test_a_due_command_that_is_skipped_lets_the_next_one_of_its_key_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = FrozenWorld()
    async with app_in(tmp_path, with_keys(later), world=world, poll_seconds=900) as app:
        for by in range(3):
            await app.send(Note("a", by))
        await passes(world, app, 10)
        _, go, fails = senders(app, monkeypatch)
        go.set()
        fails[MARK + 2] = 1_000
        await passes(world, app, 200)
        (key,) = await parked_keys(app)
        skipping = asyncio.create_task(app.projections.skip("answers", key))
        await passes(world, app, 1)
        assert (await skipping).done
        await passes(world, app, 1)
        assert await answers(app) == [MARK + 1, MARK]


async def test_a_due_command_that_is_retried_but_no_longer_due_lets_the_next_one_of_its_key_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = FrozenWorld()
    async with app_in(tmp_path, with_keys(later), world=world, poll_seconds=900) as app:
        for by in range(3):
            await app.send(Note("a", by))
        await passes(world, app, 10)
        _, go, fails = senders(app, monkeypatch)
        go.set()
        fails[MARK + 2] = 1_000
        await passes(world, app, 200)
        (key,) = await parked_keys(app)
        running = app._running
        assert running is not None
        workers = running.synchronization.supervisor.workers.items()
        reactor: Any = next(worker.follower for unit, worker in workers if unit.kind == "policy")
        # Another process has skipped it.
        deleting = asyncio.create_task(reactor._storage.append(reactor._storage.delete_due(key)))
        await world.settle()
        await deleting
        await reactor.retry(key, 0)
        await passes(world, app, 1)
        assert await answers(app) == [MARK + 1, MARK]


@pytest.mark.parametrize("key", [CounterId, None], ids=["many keys", "one key"])
async def test_many_commands_that_are_due_at_once_share_commits_and_keep_the_order_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: object
) -> None:
    batches: list[int] = []
    real = Batcher._next_batch

    def next_batch(self: Batcher) -> Any:
        batch = real(self)
        batches.append(sum((each.append.command_id or "").startswith("~") for each in batch))
        return batch

    monkeypatch.setattr(Batcher, "_next_batch", next_batch)
    world = FrozenWorld()
    async with app_in(tmp_path, with_keys(later, key=key), world=world, poll_seconds=900) as app:
        for by in range(300):
            await app.send(Note(f"n-{by}", by))
        await passes(world, app, 10)
    await world.advance(100)
    async with app_in(tmp_path, with_keys(later, key=key), world=world, poll_seconds=900) as app:
        for _ in range(10):
            await passes(world, app, 1)
        assert await answers(app) == [MARK + by for by in range(299, -1, -1)]
    assert sum(batches) == 300
    assert sum(1 for each in batches if each) <= 20, "a commit for each command"


def test_the_queue_gives_the_commands_of_a_key_one_by_one() -> None:
    queue = DueQueue()

    def due(key: str, at: int) -> Due:
        return Due(at, "count", b"{}", "c", "c", key=key)  # type: ignore[arg-type]

    queue.add({"due:1": due("a", 1), "due:2": due("a", 2), "due:3": due("a", 3), "due:4": due("", 4)})
    first = queue.pop()
    assert first is not None
    assert first.key == "due:1"
    assert [queue.pop(), queue.pop()] == [None, None]
    assert queue.waits_behind(first.due) == 2
    assert queue.remove("due:2") is not None
    alone = queue.pop()
    assert alone is not None
    assert alone.key == "due:4"
    queue.done(alone)
    queue.done(first)
    last = queue.pop()
    assert last is not None
    assert last.key == "due:3"
    queue.done(last)
    assert queue.first_at is None

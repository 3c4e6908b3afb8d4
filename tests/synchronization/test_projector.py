"""A read model is the fold of the log at its checkpoint, through restarts, poison, lost hints and lost databases."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, folded, settled, until
from tests.sample_domains.counters import (
    Count,
    Counted,
    CounterId,
    Ended,
    Ignore,
    Total,
    TotalOf,
    add_up,
    counters,
)
from twofold.app import App
from twofold.errors import ForkedHistory, Unavailable
from twofold.health import FollowerStatus
from twofold.read_store.port import Change
from twofold.read_store.sqlite import checkpoints


async def happen(app: App, random: Random, commands: int) -> None:
    for _ in range(commands):
        some = [f"c{random.randint(1, 9)}" for _ in range(random.randint(1, 4))]
        await app.send(random.choice((Count(some, random.randint(1, 99)), Count(some), Count(some, 0), Ignore(some))))


async def status_of(app: App, name: str = "totals") -> FollowerStatus:
    return next(each for each in (await app.status()).followers if each.name == name)


async def test_whatever_happens_and_however_it_is_paged_the_rows_equal_a_plain_fold(tmp_path: Path) -> None:
    for seed in range(12):
        random = Random(seed)
        folder = tmp_path / str(seed)
        for _ in range(3):
            async with app_in(folder, page_events=random.choice((1, 2, 3, 7, 1_000))) as app:
                await happen(app, random, random.randint(1, 60))
                assert await settled(app) == await folded(app), f"seed {seed}"


async def test_a_deleted_read_database_is_built_anew(tmp_path: Path) -> None:
    async with app_in(tmp_path) as app:
        await happen(app, Random(1), 80)
        before = await settled(app)
    for file in tmp_path.glob("views.db*"):
        file.unlink()
    async with app_in(tmp_path, page_events=7) as app:
        assert await settled(app) == before == await folded(app)


async def test_a_new_version_of_a_projection_is_built_from_the_first_event(tmp_path: Path) -> None:
    def doubled(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        after = add_up(row, event, counter)
        return after and Total(counter, after.total, -abs(after.trail))

    async with app_in(tmp_path) as app:
        await happen(app, Random(2), 60)
        await settled(app)
    async with app_in(tmp_path, counters(doubled, version=2)) as app:
        assert await settled(app) == await folded(app, doubled)


async def test_a_restart_goes_on_behind_the_checkpoint_and_folds_nothing_twice(tmp_path: Path) -> None:
    taken: list[int] = []

    def watched(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        taken.append(event.by if isinstance(event, Counted) else 0)
        return add_up(row, event, counter)

    for start in range(0, 30, 10):
        async with app_in(tmp_path, counters(watched), page_events=3) as app:
            for n in range(start, start + 10):
                await app.send(Count(["a"], n + 1))
            await settled(app)
    assert taken == list(range(1, 31))


async def test_rows_and_checkpoint_are_saved_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is as good as dead each time a save is half done, and the counts are right all the same."""
    from_the_disk: list[str] = []
    async with app_in(tmp_path, page_events=4, catch_up_page_events=4) as app:
        running = app._running
        assert running is not None
        park, left = checkpoints.park, iter([True, True, False, True, False, False, True] * 3)

        def dies(connection: Any, change: Change) -> None:
            # Called after the rows were written and before the commit.
            if next(left, False):
                from_the_disk.append("died")
                raise OSError("the process ends here")
            park(connection, change)

        monkeypatch.setattr(checkpoints, "park", dies)
        await happen(app, Random(3), 60)
        assert await settled(app) == await folded(app)
    assert len(from_the_disk) > 5


def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    if isinstance(event, Counted) and event.by == 13 and counter == "bad":
        raise ArithmeticError("thirteen")
    return add_up(row, event, counter)


async def test_a_poison_event_sets_its_key_aside_and_the_others_go_on(tmp_path: Path) -> None:
    async with app_in(tmp_path, counters(poisoned), fold_retries=1) as app:
        await app.send(Count(["bad", "good"], 1))
        await app.send(Count(["bad", "good"], 13))
        await until(lambda: parked(app), "parked")
        for n in range(5):
            await app.send(Count(["good", "bad"], n + 2))
        rows = await settled(app)
        assert rows["bad"] == Total("bad", 1, 1), "the row must stay as it was before the event that failed"
        assert rows["good"] == (await folded(app))["good"]
        status = await status_of(app)
        (aside,) = status.parked
        assert (aside.key, aside.position, aside.waiting) == ("bad", 2, 5)
        assert "thirteen" in aside.error
        assert (status.state, status.lag) == ("up-to-date", 0)

    # The same code again: it stays parked, and what waits is still counted.
    async with app_in(tmp_path, counters(poisoned), fold_retries=1) as app:
        await app.send(Count(["bad"], 7))
        await settled(app)
        assert [(each.key, each.waiting) for each in (await status_of(app)).parked] == [("bad", 6)]

    # Mended code: the whole sequence is folded in order, none left out.
    async with app_in(tmp_path) as app:
        await app.send(Count(["bad"], 8))
        assert await settled(app) == await folded(app)
        assert (await status_of(app)).parked == ()


async def parked(app: App) -> bool:
    return bool((await status_of(app)).parked)


def failing(bad: frozenset[str]) -> Callable[..., Any]:
    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if counter in bad and isinstance(event, Counted) and event.by % 3 == 0:
            raise ValueError(counter)
        return add_up(row, event, counter)

    return fold


async def test_any_poison_at_any_place_parks_no_more_than_its_keys(tmp_path: Path) -> None:
    for seed in range(6):
        random = Random(seed)
        bad = frozenset({f"c{n}" for n in random.sample(range(1, 10), 3)})

        folder = tmp_path / str(seed)
        async with app_in(
            folder, counters(failing(bad)), fold_retries=0, page_events=random.choice((1, 5, 100))
        ) as app:
            await happen(app, random, 40)
            rows, right = await settled(app), await folded(app)
            aside = {each.key for each in (await status_of(app)).parked}
            assert aside <= bad
            assert {k: v for k, v in rows.items() if k not in aside} == {
                k: v for k, v in right.items() if k not in aside
            }
        async with app_in(folder) as app:
            await until(lambda app=app: none_parked(app), "taken up")
            assert await settled(app) == await folded(app), f"seed {seed}"


async def none_parked(app: App) -> bool:
    return not (await status_of(app)).parked


async def stopped(app: App) -> bool:
    return (await status_of(app)).state == "stopped"


async def test_a_follower_that_cannot_pass_an_event_is_visibly_stopped_while_it_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_in(tmp_path, fold_retries=0)
    decode, unreadable = app.events.decode, {2}

    def read(recorded: Any) -> Any:
        if recorded.position in unreadable:
            raise ValueError("a bug of the codec")
        return decode(recorded)

    monkeypatch.setattr(app.events, "decode", read)
    async with app:
        for n in range(3):
            await app.send(Count(["a"], n + 1))
        await until(lambda: stopped(app), "stopped")
        running = app._running
        assert running is not None
        (worker,) = running.synchronization.workers
        apply, states = worker.follower.apply, []

        async def watched(page: Any, before: int) -> None:
            states.append(worker.state)
            await apply(page, before)

        monkeypatch.setattr(worker.follower, "apply", watched)
        await until(lambda: len(states) == 2, "tried again")
        assert states == ["stopped", "stopped"], "it may not look alive while it tries"
        assert (await status_of(app)).position == 1
        unreadable.clear()
        assert await settled(app) == await folded(app)


async def test_lost_notifications_cost_no_more_than_the_polling_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_in(tmp_path, poll_seconds=0.05) as app:
        running = app._running
        assert running is not None
        write_store: Any = running.write_store.present
        await settled(app)
        # Whoever waits for news waits on an event that nobody will set.
        monkeypatch.setattr(write_store, "_news", asyncio.Event())
        append = write_store._writer.append
        monkeypatch.setattr(write_store, "append", lambda batch: deaf(append, batch))
        for n in range(10):
            await app.send(Count(["a"], n + 1))
        assert await settled(app) == await folded(app)


async def deaf(append: Any, batch: Any) -> Any:
    return append(batch)


async def test_a_read_database_of_another_log_is_refused(tmp_path: Path) -> None:
    async with app_in(tmp_path) as app:
        await app.send(Count(["a"], 1))
        await settled(app)
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    async with app_in(tmp_path) as app:
        with pytest.raises(ForkedHistory, match="does not hold that position"):
            await app.send(Count(["a"], 1))
        with pytest.raises(Unavailable):
            await app.ask(TotalOf("a"))
        assert (await app.status()).health.command_side == "not_ready"
    for file in tmp_path.glob("views.db*"):
        file.unlink()
    async with app_in(tmp_path) as app:
        assert await settled(app) == {}


async def test_a_full_read_disk_stops_no_command_and_is_caught_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_in(tmp_path) as app:
        running = app._running
        assert running is not None
        save = running.read_store.save

        async def full(change: Change) -> None:
            raise Unavailable("no room")

        monkeypatch.setattr(running.read_store, "save", full)
        for n in range(5):
            await app.send(Count(["a"], n + 1))
        await until(lambda: retrying(app), "retrying")
        assert (await status_of(app)).lag == 5
        monkeypatch.setattr(running.read_store, "save", save)
        assert await settled(app) == await folded(app)
        assert (await app.ask(TotalOf("a"))).value.total == 15


async def retrying(app: App) -> bool:
    return (await status_of(app)).state == "retrying"

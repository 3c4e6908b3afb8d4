"""A command waits for the followers it names, and is written whether they come in time or not."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, CounterId, Total, TotalOf, add_up, count, counters
from twofold.app import App
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection
from twofold.errors import Unavailable, UnknownMessage


def stuck(app: App, name: str, patch: pytest.MonkeyPatch) -> None:
    """Let a follower take nothing more."""
    running = app._running
    assert running is not None
    for share, worker in running.synchronization.supervisor.workers.items():
        if share.name == name:
            patch.setattr(worker, "_held", lambda: False)


async def test_what_was_waited_for_is_there_in_the_moment_of_the_receipt(tmp_path: Path) -> None:
    seen: list[int] = []

    async def react(event: Counted, recorded: RecordedEvent) -> None:
        seen.append(recorded.position)

    async with app_in(tmp_path, counters(policies=[Policy("watch", react)]), poll_seconds=5.0) as app:
        for n in range(50):
            receipt = await app.send(Count(["a"]), wait_for=["totals", "watch"])
            assert receipt.late == []
            assert (await app.ask(TotalOf("a"))).value.total == n + 1
            assert seen[-1] == receipt.position


async def test_an_unknown_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    async with app_in(tmp_path) as app:
        with pytest.raises(UnknownMessage, match=r"There is no follower 'nope'\. There are: totals\."):
            await app.send(Count(["a"]), wait_for=["totals", "nope"])
        assert (await app.log()).head == 0


async def test_who_is_late_is_named_in_the_order_in_which_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def react(event: Counted) -> None:
        return None

    policies = [Policy(name, react) for name in ("first", "second")]
    async with app_in(tmp_path, counters(policies=policies)) as app:
        await app.send(Count(["a"]), wait_for=["first", "second", "totals"])
        for name in ("second", "totals"):
            stuck(app, name, monkeypatch)
        in_time = await app.send(Count(["a"]), command_id="one", wait_for=["first"])
        assert in_time.late == []
        names = ["totals", "first", "second", "totals"]
        receipt = await app.send(Count(["a"]), command_id="one", wait_for=names, wait_seconds=0.2)
        assert receipt.late == ["totals", "second"]
        assert (await app.log()).head == receipt.position == 2
        monkeypatch.undo()
        again = await app.send(Count(["a"]), wait_for=["totals", "first", "second"])
        assert again.late == []


async def test_a_repeat_waits_for_what_the_first_was_too_early_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_in(tmp_path) as app:
        stuck(app, "totals", monkeypatch)
        first = await app.send(Count(["a"]), command_id="one", wait_for=["totals"], wait_seconds=0.05)
        assert first.late == ["totals"]
        asked = asyncio.create_task(app.send(Count(["a"]), command_id="one", wait_for=["totals"]))
        monkeypatch.undo()
        again = await asked
        assert (again.repeated, again.position, again.late) == (True, first.position, [])


async def test_a_command_is_not_lost_with_the_read_store_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_in(tmp_path) as app:
        running = app._running
        assert running is not None

        async def away() -> Any:
            raise Unavailable("the read store is away")

        monkeypatch.setattr(running.read_store, "checkpoints", away)
        receipt = await app.send(Count(["a"]), wait_for=["totals"])
        assert (receipt.position, receipt.late) == (1, ["totals"])
        monkeypatch.undo()
        await until(lambda: there(app), "there all the same")


async def there(app: App) -> bool:
    row: Total | None = (await app.ask(TotalOf("a"))).value
    return row is not None


async def test_who_leaves_while_it_waits_disturbs_nobody_who_shares_its_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app_in(tmp_path) as app:
        running = app._running
        assert running is not None
        checkpoints, looking, go_on = running.read_store.checkpoints, asyncio.Event(), asyncio.Event()

        async def slowly() -> Any:
            looking.set()
            await go_on.wait()
            return await checkpoints()

        monkeypatch.setattr(running.read_store, "checkpoints", slowly)
        waiting = [asyncio.create_task(app.send(Count(["a"]), wait_for=["totals"])) for _ in range(20)]
        await until(lambda: written(app, 20), "written")
        await looking.wait()
        for task in waiting[::2]:
            task.cancel()
        await asyncio.wait(waiting[::2])
        go_on.set()
        receipts = await asyncio.gather(*waiting[1::2])
        assert {tuple(each.late) for each in receipts} == {()}


async def written(app: App, events: int) -> bool:
    return (await app.log()).head == events


@pytest.mark.parametrize("lifecycle", ["inline", "live"])
async def test_what_has_no_follower_is_never_late(tmp_path: Path, lifecycle: Any) -> None:
    projection = Projection("totals", add_up, key=CounterId, lifecycle=lifecycle)
    module = Module("counters", events=[Counted, *counters().events[1:]], decisions=[count], projections=[projection])
    async with app_in(tmp_path, module) as app:
        assert (await app.send(Count(["a"]), wait_for=["totals"], wait_seconds=0.01)).late == []
        with pytest.raises(UnknownMessage):
            await app.projections.rebuild(["totals"])

"""Live answers of an app: equal ones are shared, positions are respected, and nothing is left of them."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, TotalOf, add_up, count
from twofold import App, Module, Projection, Unavailable
from twofold.query_service.view import View
from twofold.receipt import Answer


class Asked:
    """Which counters were asked for."""

    def __init__(self) -> None:
        self.counters: list[str] = []

    def app(self, folder: Path) -> App:
        async def total_of(query: TotalOf, totals: View[Total]) -> Total | None:
            self.counters.append(query.counter)
            return await totals.get(query.counter)

        projection = Projection("totals", add_up, key=CounterId)
        module = Module(
            "counters", events=[Counted, Ended], decisions=[count], projections=[projection], queries=[total_of]
        )
        return app_in(folder, module, poll_seconds=60.0)


class Looking:
    """A task that takes live answers."""

    def __init__(self, app: App, query: Any, **options: Any) -> None:
        self.answers: list[Answer] = []
        self._live = app.live(query, **options)
        self.task = asyncio.create_task(self._run())

    @property
    def totals(self) -> list[int | None]:
        return [None if answer.value is None else answer.value.total for answer in self.answers]

    async def _run(self) -> None:
        async with aclosing(self._live) as live:
            async for answer in live:
                self.answers.append(answer)


async def test_equal_queries_get_one_answer_and_other_ones_their_own(tmp_path: Path) -> None:
    asked = Asked()
    async with asked.app(tmp_path) as app:
        looking = [Looking(app, TotalOf("a")) for _ in range(20)]
        other = Looking(app, TotalOf("b"))
        await until(lambda: all(each.answers for each in [*looking, other]), "the first answers")
        for n in range(1, 6):
            await app.send(Count(["a"], 1))
            await until(lambda n=n: all(each.totals[-1] == n for each in looking), "the next answers")
        assert all(each.totals == [None, 1, 2, 3, 4, 5] for each in looking)
        assert other.totals == [None]
        assert all(each.answers[-1] is looking[0].answers[-1] for each in looking)
        # At least one for each answer; other progress may cause some more, but never one for each listener.
        assert 6 <= asked.counters.count("a") < 30


async def test_a_listener_with_a_position_sees_at_least_that_while_others_do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Asked().app(tmp_path) as app:
        await app.send(Count(["a"], 1))
        first = Looking(app, TotalOf("a"))
        await until(lambda: first.totals and first.totals[-1] == 1, "the row")
        running = app._running
        assert running is not None
        save, gate = running.read_store.save, asyncio.Event()

        async def save_later(*changes: Any) -> Any:
            await gate.wait()
            return await save(*changes)

        monkeypatch.setattr(running.read_store, "save", save_later)
        receipt = await app.send(Count(["a"], 1))
        fresh, plain = Looking(app, TotalOf("a"), position=receipt.token), Looking(app, TotalOf("a"))
        await until(lambda: plain.totals == [1], "an answer without waiting")
        assert fresh.answers == []
        gate.set()
        await until(lambda: fresh.answers and plain.totals == [1, 2], "the new answers")
        assert fresh.totals == [2]
        assert fresh.answers[0].position >= receipt.position


async def test_a_position_that_is_not_reached_in_time_is_an_error_of_that_listener_alone(tmp_path: Path) -> None:
    asked = Asked()
    async with asked.app(tmp_path) as app:
        plain = Looking(app, TotalOf("a"))
        await until(lambda: plain.answers, "the first answer")
        await app.projections.pause("totals")
        receipt = await app.send(Count(["a"], 1))
        late = Looking(app, TotalOf("a"), position=receipt.token)
        with pytest.raises(Unavailable, match="paused"):
            await late.task
        assert not plain.task.done()


async def test_nothing_is_left_of_live_queries_that_have_ended(tmp_path: Path) -> None:
    async with Asked().app(tmp_path) as app:
        tasks = asyncio.all_tasks()
        looking = [Looking(app, TotalOf(name)) for name in ("a", "a", "b")]
        await until(lambda: all(each.answers for each in looking), "the first answers")
        for each in looking:
            each.task.cancel()
        await asyncio.wait([each.task for each in looking])
        assert len(app.queries._live) == 0
        await until(lambda: asyncio.all_tasks() <= tasks, "no task of theirs")


async def test_an_app_that_is_started_again_answers_from_its_new_stores(tmp_path: Path) -> None:
    app = Asked().app(tmp_path)
    async with app:
        before = Looking(app, TotalOf("a"))
        await until(lambda: before.answers, "the first answer")
    await asyncio.wait_for(before.task, 30)
    async with app:
        after = Looking(app, TotalOf("a"))
        await app.send(Count(["a"], 3))
        await until(lambda: after.totals and after.totals[-1] == 3, "the row")

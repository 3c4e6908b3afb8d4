"""A follower that does not move while the log does is reported within seconds, whatever it says of itself."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.http.test_metrics import of, scrape
from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count
from tests.synchronization.cluster_helpers import Cluster, follows, happen, shares
from tests.synchronization.liveness_helpers import (
    STALL,
    TOTALS,
    WATCH,
    asked,
    caught_up,
    counters,
    follower,
    hanging,
    level,
    only_reported,
    others_caught_up,
    problems,
    worker_of,
)
from twofold.app import App
from twofold.errors import Unavailable
from twofold.synchronization.work_unit import WorkUnit
from twofold.testing import FrozenWorld

Sabotage = Callable[[App, WorkUnit, pytest.MonkeyPatch], Callable[[], None]]


# ----------------------------------------------------------------------------------------- whatever it says of itself


class Liar:
    """Stands in the place of a worker, says that all is well, and does nothing."""

    state = "up-to-date"
    error = None
    outage = None
    ended = False

    def __init__(self, follower: Any) -> None:
        self.follower = follower
        self.position = 1_000_000

    def rate(self) -> float:
        return 1_000.0

    def run_of(self, *_: Any) -> "Liar":
        return self

    async def stop(self) -> None:
        return None


def replaced(app: App, share: WorkUnit, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Another answers in its place."""
    worker = shares(app)[share]
    worker._task.cancel()
    shares(app)[share] = Liar(worker.follower)

    def heal() -> None:
        worker._task = asyncio.create_task(worker._run())
        shares(app)[share] = worker

    return heal


def deaf(app: App, share: WorkUnit, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """It takes it that there is nothing new."""
    pages = shares(app)[share]._pages
    write_store, reported = pages._write_store, pages._query

    class Empty:
        identity = write_store.identity

        async def read(self, query: Any, after: int = 0, *_: object) -> Any:
            page = await write_store.read(reported, after, 0)
            return type(page)([], after, after, page.chain)

        async def wait(self, after: int, timeout: float) -> None:
            await asyncio.sleep(0.01)

    patch.setattr(pages, "_write_store", Empty())
    return lambda: setattr(pages, "_write_store", write_store)


@pytest.mark.parametrize("name", ["totals", "watch"])
@pytest.mark.parametrize("sabotage", [replaced, hanging, deaf])
async def test_a_follower_that_does_not_move_is_reported_everywhere_and_no_more_once_it_moves(
    sabotage: Sabotage, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = counters(settings={"stall_seconds": STALL})
    async with app, asked(app) as http:
        await app.send(Count(["a"]))
        await until(lambda: caught_up(app), "caught up")
        assert await level(http) == "ready"
        share = next(each for each in shares(app) if each.name == name)
        heal = sabotage(app, share, monkeypatch)
        await app.send(Count(["a"]))
        kind = "projection" if name == "totals" else "policy"
        await until(lambda: only_reported(app, f"{kind} '{name}' has not moved from position 1 for "), "reported")
        await until(lambda: others_caught_up(app, name), "the others do not wait for it")
        report = (await http.get("/health/ready")).json()
        (problem,) = report["problems"]
        assert (problem["code"], problem["subject"]) == ("stalled", name)
        assert f"'{name}' has not moved from position 1 for " in problem["message"]
        assert "1 event behind" in problem["message"]
        status = (await http.get("/status")).json()
        assert (status["health"]["level"], status["health"]["problem_count"]) == ("degraded", 1)
        (reported,) = [each for each in status["followers"] if each["name"] == name]
        assert (reported["position"], reported["lag"]) == (1, 1)
        assert reported["partitions"][0]["stalled"] > STALL
        labels = TOTALS if name == "totals" else WATCH
        series = await scrape(http)
        assert of(series, "follower_stalled_seconds", **labels) > STALL
        assert (of(series, "follower_lag_events", **labels), of(series, "ready"), of(series, "problems")) == (1, 1, 1)
        side = "query" if name == "totals" else "command"
        assert of(series, "health_level", side=side) == 1
        heal()
        await until(lambda: caught_up(app), "caught up")
        assert await level(http) == "ready"
        assert of(await scrape(http), "follower_stalled_seconds", **labels) == 0


@pytest.mark.parametrize("name", ["totals", "watch"])
async def test_a_follower_whose_task_died_is_begun_anew(name: str) -> None:
    app = counters()
    async with app:
        await app.send(Count(["a"]))
        await until(lambda: caught_up(app), "caught up")
        worker = worker_of(app, name)
        begun = asyncio.Event()

        async def never_done() -> None:
            begun.set()
            await asyncio.Event().wait()

        asked = asyncio.create_task(worker.between_pages(never_done))
        await begun.wait()
        worker._task.cancel()  # type: ignore[union-attr]
        with pytest.raises(Unavailable, match="Try again"):
            await asked
        await app.send(Count(["a"]))
        await until(lambda: caught_up(app), "caught up")
        assert worker_of(app, name) is not worker


async def test_each_node_reports_what_another_node_does_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    async with cluster.node(stall_seconds=STALL) as first, cluster.node(stall_seconds=STALL) as second:
        await until(lambda: len(follows(first)) == len(follows(second)) == 2, "shared out")
        await happen(first, 20)
        await until(lambda: caught_up(first), "caught up")
        for share in list(shares(second)):
            _ = replaced(second, share, monkeypatch)
        await happen(first, 20)
        expected = [f"projection 'totals' ({part}) has not moved " for part in follows(second)]
        await until(lambda: only_reported(first, *expected), "reported by the one that does its part")
        await until(lambda: parts_at_head(first, follows(first)), "the first has done its part")
        async with asked(first) as http:
            series = await scrape(http)
        for part in follows(second):
            assert of(series, "partition_stalled_seconds", name="totals", partition=part) > STALL
        for part in follows(first):
            assert of(series, "partition_stalled_seconds", name="totals", partition=part) == 0


async def parts_at_head(app: App, parts: set[str]) -> bool:
    status = await app.status()
    mine = [each for follower in status.followers for each in follower.partitions if each.partition in parts]
    return all(each.position == status.head for each in mine)


# ------------------------------------------------------------------------------------------------------- to the second


async def held(app: App, name: str, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A worker that takes nothing until it is let go."""
    worker = worker_of(app, name)
    before = worker._held
    patch.setattr(worker, "_held", lambda: False)
    return lambda: patch.setattr(worker, "_held", before)


async def problems_after(app: App, world: FrozenWorld, seconds: float) -> list[str]:
    await world.advance(seconds)
    return await problems(app)


async def test_it_is_reported_when_the_time_is_over_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    world = FrozenWorld()
    async with counters(world=world, settings={"poll_seconds": 0.5, "stall_seconds": 5.0}) as app:
        await held(app, "totals", monkeypatch)
        # A log that rests is no reason to report anybody, however long.
        assert await problems_after(app, world, 60) == []
        sending = asyncio.create_task(app.send(Count(["a"])))
        await world.settle()
        await sending
        assert await problems(app) == []
        assert await problems_after(app, world, 4.9) == []
        (problem,) = await problems_after(app, world, 1.2)
        assert problem.startswith("projection 'totals' has not moved from position 0 for ")


async def test_looks_that_lie_far_apart_make_no_false_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    world = FrozenWorld()
    async with counters(world=world, settings={"stall_seconds": 5.0}) as app:
        await held(app, "totals", monkeypatch)
        running = app._running
        assert running is not None
        looks = running.synchronization._task
        assert looks is not None
        looks.cancel()
        await app.status()
        await world.advance(60)
        sending = asyncio.create_task(app.send(Count(["a"])))
        await world.settle()
        await sending
        assert await problems(app) == []
        assert await problems_after(app, world, 4.9) == []
        assert len(await problems_after(app, world, 0.2)) == 1


async def test_an_objective_is_reported_when_it_is_missed_and_no_more_when_it_is_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = FrozenWorld()
    settings = {"poll_seconds": 0.5, "stall_seconds": 600.0}
    async with counters(world=world, settings=settings, freshness=2.0) as app, asked(app) as http:
        for name in ("totals", "watch"):
            await held(app, name, monkeypatch)
        sending = asyncio.create_task(app.send(Count(["a"])))
        await world.settle()
        await sending
        assert await problems_after(app, world, 1.9) == []
        missed = await problems_after(app, world, 0.2)
        assert missed == ["projection 'totals' is 1 event (2.1 s) behind; its objective is 2 s."], "the policy has none"
        assert await level(http) == "degraded"
        series = await scrape(http)
        objective = of(series, "follower_freshness_objective_seconds", **TOTALS)
        assert of(series, "follower_lag_seconds", **TOTALS) > objective == 2.0
        monkeypatch.undo()
        met = await problems_after(app, world, 1.0)
        assert (met, await level(http)) == ([], "ready")
        assert of(await scrape(http), "follower_lag_seconds", **TOTALS) == 0


async def test_an_objective_is_missed_by_who_moves_too_slowly_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    world = FrozenWorld()
    settings = {"poll_seconds": 0.5, "page_events": 1}
    async with counters(world=world, settings=settings, freshness=2.0) as app:
        worker = worker_of(app, "totals")
        apply = worker.follower.apply

        async def slowly(*given: Any) -> None:
            await world.sleep(1.0)
            await apply(*given)

        monkeypatch.setattr(worker.follower, "apply", slowly)
        for _ in range(9):
            sending = asyncio.create_task(app.send(Count(["a"])))
            await world.settle()
            await sending
        (problem,) = await problems_after(app, world, 5.0)
        assert problem.endswith("its objective is 2 s.")
        assert 0 < (await follower(app)).lag < 9
        assert await problems_after(app, world, 9.0) == []

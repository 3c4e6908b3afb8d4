"""Who stands still while the log does not is reported within seconds, everywhere, whatever it says of itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.http.test_metrics import Series, of, scrape
from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, add_up, count, total_of
from tests.synchronization.cluster_helpers import Cluster, follows, happen, shares
from twofold.app import App
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module
from twofold.domain.process import Policy
from twofold.domain.projection import Projection
from twofold.errors import Unavailable
from twofold.health import FollowerStatus
from twofold.http import asgi
from twofold.settings import Settings
from twofold.synchronization.work_unit import WorkUnit
from twofold.synchronization.worker import Worker
from twofold.testing import FrozenWorld
from twofold.world import World

STALL = 0.3
TOTALS = {"name": "totals", "kind": "projection"}
WATCH = {"name": "watch", "kind": "policy"}
Sabotage = Callable[[App, WorkUnit, pytest.MonkeyPatch], Callable[[], None]]


async def react(event: Counted, recorded: RecordedEvent) -> None:
    return None


def counters(
    *,
    world: World | None = None,
    fold: Callable[..., Any] = add_up,
    settings: dict[str, Any] | None = None,
    **given: Any,
) -> App:
    """The counters with one projection and one policy, in memory."""
    module = Module(
        "counters",
        events=[Counted, Ended],
        decisions=[count],
        projections=[Projection("totals", fold, key=CounterId, **given)],
        policies=[Policy("watch", react)],
        queries=[total_of],
    )
    chosen = Settings(**({"poll_seconds": 0.02, "fold_retries": 0} | (settings or {})))
    return App(module, write_store="memory:", read_store="memory:", settings=chosen, world=world)


@asynccontextmanager
async def asked(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who asks a running app over HTTP."""
    transport = httpx.ASGITransport(asgi(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
        yield http


async def follower(app: App, name: str = "totals") -> FollowerStatus:
    return next(each for each in (await app.status()).followers if each.name == name)


def worker_of(app: App, name: str) -> Worker:
    return next(worker for share, worker in shares(app).items() if share.name == name)


async def caught_up(app: App) -> bool:
    status = await app.status()
    return all(each.position == status.head for each in status.followers)


# ----------------------------------------------------------------------------------------- whatever it says of itself


class Liar:
    """Stands in the place of a worker, says that all is well, and does nothing."""

    state = "up-to-date"
    error = None
    ended = False

    def __init__(self, follower: Any) -> None:
        self.follower = follower
        self.position = 1_000_000

    def rate(self) -> float:
        return 1_000.0

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


def hanging(app: App, share: WorkUnit, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """It waits for an answer that never comes."""
    follower, go_on = shares(app)[share].follower, asyncio.Event()
    apply = follower.apply

    async def hangs(*given: Any) -> None:
        await go_on.wait()
        await apply(*given)

    patch.setattr(follower, "apply", hangs)
    return go_on.set


def deaf(app: App, share: WorkUnit, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """It takes it that there is nothing new."""
    worker = shares(app)[share]
    write_store, told = worker._write_store, worker._query

    class Empty:
        async def read(self, query: Any, after: int = 0, limit: int = 0) -> Any:
            page = await write_store.read(told, after, 0)
            return type(page)([], after, after)

        async def wait(self, after: int, timeout: float) -> None:
            await asyncio.sleep(0.01)

    patch.setattr(worker, "_write_store", Empty())
    return lambda: setattr(worker, "_write_store", write_store)


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
        async with asyncio.timeout(STALL + 10):
            await until(lambda: degraded(http), "reported within seconds")
        report = (await http.get("/health/ready")).json()
        (problem,) = report["problems"]
        assert (problem["code"], problem["subject"]) == ("stalled", name)
        assert f"'{name}' has not moved from position 1 for " in problem["message"]
        assert "1 event behind" in problem["message"]
        status = (await http.get("/status")).json()
        assert (status["health"]["level"], status["health"]["problem_count"]) == ("degraded", 1)
        (told,) = [each for each in status["followers"] if each["name"] == name]
        assert (told["position"], told["lag"]) == (1, 1)
        assert told["partitions"][0]["stalled"] > STALL
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
        with pytest.raises(Unavailable, match="Ask again"):
            await asked
        await app.send(Count(["a"]))
        await until(lambda: caught_up(app), "caught up")
        assert worker_of(app, name) is not worker


async def level(http: httpx.AsyncClient) -> str:
    answer = await http.get("/health/ready")
    assert answer.status_code == 200
    return str(answer.json()["level"])


async def degraded(http: httpx.AsyncClient) -> bool:
    return await level(http) == "degraded"


async def problems(app: App) -> list[str]:
    return [problem.message for problem in (await app.status()).health.problems]


async def test_each_node_reports_what_another_node_does_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    async with cluster.node(stall_seconds=STALL) as first, cluster.node(stall_seconds=STALL) as second:
        await until(lambda: len(follows(first)) == len(follows(second)) == 2, "shared out")
        await happen(first, 20)
        await until(lambda: caught_up(first), "caught up")
        for share in list(shares(second)):
            _ = replaced(second, share, monkeypatch)
        await happen(first, 20)
        await until(lambda: both_reported(first), "reported by the one that does its part")
        async with asked(first) as http:
            reasons = [each["message"] for each in (await http.get("/health/ready")).json()["problems"]]
            reported = [part for part in follows(second) if any(f"({part})" in reason for reason in reasons)]
            assert sorted(reported) == sorted(follows(second))
            series = await scrape(http)
        for part in follows(second):
            assert of(series, "partition_stalled_seconds", name="totals", partition=part) > STALL
        for part in follows(first):
            assert of(series, "partition_stalled_seconds", name="totals", partition=part) == 0


async def both_reported(app: App) -> bool:
    return len(await problems(app)) == 2


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
        looks = running.supervisor._task
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


# ---------------------------------------------------------------------------------------------- set aside, and halted


def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    if isinstance(event, Counted) and event.by == 13 and counter == "bad":
        raise ArithmeticError("thirteen")
    return add_up(row, event, counter)


async def told_by(app: App, http: httpx.AsyncClient) -> tuple[FollowerStatus, dict[str, Any], dict[str, Any], Series]:
    everything = (await http.get("/status")).json()
    one = (await http.get("/projections/totals")).json()["follower"]
    (same,) = [each for each in everything["followers"] if each["name"] == "totals"]
    return await follower(app), one, same, await scrape(http)


async def test_a_parked_key_is_shown_everywhere_and_the_others_stay_ready() -> None:
    async with counters(fold=poisoned) as app, asked(app) as http:
        for by in (1, 13, 2, 3):
            await app.send(Count(["bad", "good"], by))
        await until(lambda: caught_up(app), "caught up")
        status, one, same, series = await told_by(app, http)
        (aside,) = status.parked
        assert (aside.key, aside.position, aside.waiting) == ("bad", 2, 2)
        for told in (one, same):
            (shown,) = told["parked"]
            assert (shown["key"], shown["position"], shown["waiting"]) == ("bad", 2, 2)
            assert "thirteen" in shown["error"]
        assert of(series, "follower_parked_keys", **TOTALS) == 1
        assert of(series, "follower_waiting_events", **TOTALS) == 2
        assert await level(http) == "degraded"


async def test_a_halted_partition_is_shown_everywhere_and_the_node_is_degraded() -> None:
    settings = {"stall_seconds": 600.0}
    async with counters(fold=poisoned, parks="partition", partitions=2, settings=settings) as app, asked(app) as http:
        for by in (1, 13, 2, 3):
            await app.send(Count(["bad", "good"], by))
        await until(lambda: halted(app), "halted")
        status, one, same, series = await told_by(app, http)
        (aside,) = status.parked
        assert (aside.key, aside.position) == ("bad", 2)
        assert (status.position, status.state, status.lag) == (1, "stopped", 3)
        for told in (one, same):
            assert [each["key"] for each in told["parked"]] == ["bad"]
            (stopped,) = [each for each in told["partitions"] if each["state"] == "stopped"]
            assert (stopped["position"], "thirteen" in stopped["error"]) == (1, True)
        assert of(series, "follower_parked_keys", **TOTALS) == 1
        assert of(series, "partition_lag_events", name="totals", partition=stopped["partition"]) == 3
        answer = await http.get("/health/ready")
        (reason,) = [problem["message"] for problem in answer.json()["problems"]]
        assert reason.startswith(f"projection 'totals' ({stopped['partition']}) has stopped at position 1: ")
        assert "thirteen" in reason
        assert (answer.status_code, answer.json()["level"]) == (200, "degraded")


async def test_a_partition_that_does_not_move_is_reported_beside_one_that_is_halted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"stall_seconds": STALL}
    async with counters(fold=poisoned, parks="partition", partitions=2, settings=settings) as app:
        low, high = [share for share in sorted(shares(app)) if share.kind == "projection"]
        stands, stalls = (low, high) if low.partition.holds("bad") else (high, low)
        both = ["bad", next(key for key in map(str, range(99)) if stalls.partition.holds(key))]
        await app.send(Count(both, 1))
        await until(lambda: caught_up(app), "caught up")
        heal = hanging(app, stalls, monkeypatch)
        for by in (2, 13, 3):
            await app.send(Count(both, by))

        async def told() -> bool:
            return len(await problems(app)) == 2

        await until(told, "both are reported")
        both_problems = await problems(app)
        stopped = f"'totals' ({stands.partition.name}) has stopped at position 2: "
        (one,) = [each for each in both_problems if stopped in each]
        (other,) = [
            each
            for each in both_problems
            if f"'totals' ({stalls.partition.name}) has not moved from position 1 for " in each
        ]
        assert "thirteen" in one
        assert other.endswith("no error was reported")
        heal()


async def halted(app: App) -> bool:
    status = await follower(app)
    return status.state == "stopped" and bool(status.parked)

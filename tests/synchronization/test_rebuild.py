"""A rebuild runs beside the generation that serves. Answers go on, and a build that is killed goes on later."""

import asyncio
import subprocess
import sys
from functools import partial
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
    Total,
    TotalOf,
    add_up,
    counters,
)
from tests.synchronization.cluster_helpers import Cluster, happen, totals
from tests.synchronization.rebuild_helpers import (
    FOLDS,
    ROOT,
    all_at,
    built,
    built_one,
    caught_up,
    count_events,
    poisoned,
    serves,
)
from twofold.app import App
from twofold.domain.events import RecordedEvent
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection
from twofold.errors import InvalidMessage
from twofold.synchronization.work_unit import work_unit_named


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


async def test_a_rebuild_mends_what_a_bug_has_left_behind_and_leaves_a_way_back(tmp_path: Path) -> None:
    def forgets(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        # A bug that was repaired without a new version: every third event is lost.
        return row if row is not None and row.total % 3 == 0 else add_up(row, event, counter)

    async with app_in(tmp_path, counters(forgets)) as app:
        for n in range(60):
            await app.send(Count([f"c{n % 7}"], n % 5 + 1))
        wrong = await settled(app)
    async with app_in(tmp_path, counters()) as app:
        assert await settled(app) == wrong != await folded(app)
        assert await app.projections.rebuild(["totals"]) == {"totals": 2}
        await until(lambda: built(app), "built")
        assert await settled(app) == wrong, "the old one serves until the switch"
        assert await app.projections.switch("totals") == 2
        await until(lambda: serves(app, 2), "switched")
        assert await settled(app) == await folded(app)
        await app.send(Count(["c1"], 4))
        assert await app.projections.switch_back("totals") == 1
        await until(lambda: serves(app, 1), "gone back")
        assert (await settled(app))["c1"] != (await folded(app))["c1"], "the old one was followed all the time"
        await app.projections.switch_back("totals")
        await until(lambda: serves(app, 2), "switched again")
        assert await settled(app) == await folded(app)
        assert await app.projections.drop("totals") == [1]
        assert [each.generation for each in (await app.status()).followers] == [2]
        assert (await app.status()).builds == []
    async with app_in(tmp_path, counters()) as app:
        assert app.models["totals"].generation == 2, "which one serves outlives the process"
        assert await settled(app) == await folded(app)


async def test_several_projections_are_rebuilt_in_one_pass_over_the_log(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["totals", "events", "largest"]
    projections = [totals(partitions=1), *(Projection(n, fold, key=CounterId) for n, fold in FOLDS.items())]
    async with cluster.node(projections=projections, catch_up_page_events=10) as app:
        await happen(app, 200)
        await until(lambda: all_at(app, 200), "caught up")
        read: list[int] = []
        reading = cluster.log.read

        async def watched(query: Any, after: int = 0, limit: int | None = None, *size: int) -> Any:
            if limit == 10:
                read.append(after)
            return await reading(query, after, limit, *size)

        monkeypatch.setattr(cluster.log, "read", watched)
        await app.projections.rebuild(names)
        for name in names:
            await until(lambda n=name: built(app, n), "built")
        # A build that was begun before the others were on record begins again with them.
        passes = [after for after in read if after < 200]
        assert passes[-20:] == list(range(0, 200, 10))
        assert passes.count(190) == 1, "one pass, whoever it is for"


async def test_a_rebuild_runs_no_policy(tmp_path: Path) -> None:
    reacted: list[int] = []

    async def react(event: Counted, recorded: RecordedEvent) -> None:
        reacted.append(recorded.position)

    async with app_in(tmp_path, counters(policies=[Policy("watch", react)])) as app:
        for _ in range(20):
            await app.send(Count(["a"]))
        await until(lambda: len(reacted) == 20, "reacted")
        await app.projections.rebuild(["totals"])
        await until(lambda: built(app), "built")
        await app.projections.switch("totals")
        await settled(app)
    assert reacted == list(range(1, 21))


_REBUILDS = """
import asyncio, sys
from pathlib import Path
from tests.sample_domains.counter_app_helpers import app_in
from tests.synchronization.rebuild_helpers import built

async def main() -> None:
    async with app_in(Path(sys.argv[1]), catch_up_page_events=40) as app:
        await app.projections.rebuild(["totals"])
        print("begun", flush=True)
        while not await built(app):
            builds = (await app.status()).builds
            print(builds[0].position if builds else 0, flush=True)
        print("built", flush=True)

asyncio.run(main())
"""


async def test_a_rebuild_that_is_killed_ten_times_goes_on_and_ends_as_the_fold(tmp_path: Path) -> None:
    random = Random(7)
    async with app_in(tmp_path) as app:
        for start in range(0, 6_000, 200):
            commands = [
                Count([f"c{random.randint(0, 300)}", f"c{n % 50}"], random.randint(0, 9))
                for n in range(start, start + 200)
            ]
            await asyncio.gather(*(app.send(command) for command in commands))
        expected = await settled(app)
    reached: list[int] = []
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", _REBUILDS, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            lines = [process.stdout.readline() for _ in range(random.randint(1, 12))]
            process.kill()
        reached += [int(line) for line in lines if line.strip().isdecimal()][-1:]
    assert len(reached) == 10, "each time it was killed before it had come to the end"
    assert reached == sorted(reached), "it never began from the start again"
    async with app_in(tmp_path) as app:
        assert app.models["totals"].generation == 1
        assert await settled(app) == expected, "the one that serves has not noticed"
        await until(lambda: built(app), "built")
        assert await app.projections.switch("totals") == 2
        await until(lambda: serves(app, 2), "switched")
        assert await settled(app) == expected == await folded(app)
        assert (await app.ask(TotalOf("c1"))).value == expected["c1"]


async def test_poison_in_one_build_holds_up_neither_the_others_nor_itself_while_the_log_grows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    projections = [
        Projection("totals", poisoned, key=CounterId, partitions=4),
        Projection("zevents", count_events, key=CounterId),
    ]
    async with cluster.app(projections, fold_retries=1) as app:
        await happen(app, 60)
        await app.send(Count(["bad"], 13))
        await until(lambda: caught_up(app), "caught up")
        await app.projections.rebuild(["totals", "zevents"])

        async def load() -> None:
            n = 0
            while True:
                await happen(app, 1, start=(n := n + 1))
                await asyncio.sleep(0.01)

        loading = asyncio.create_task(load())
        await until(lambda: built_beyond(app, 61), "both are built, though there is always something new")
        loading.cancel()
        await until(lambda: in_line(app), "in line")
        assert [await app.projections.switch(name) for name in ("totals", "zevents")] == [2, 2]


async def test_a_build_that_may_not_pass_an_event_stands_still_alone_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    projections = [
        Projection("totals", poisoned, key=CounterId, parks="partition", partitions=2),
        Projection("zevents", count_events, key=CounterId),
    ]
    async with cluster.app(projections, fold_retries=0, catch_up_page_events=40) as app:
        await happen(app, 60)
        await app.send(Count(["bad"], 13))
        await happen(app, 100)
        await until(lambda: stands(app, 161, 1), "one partition stands, all else goes on")
        await app.projections.rebuild(["totals", "zevents"])
        await until(lambda: stands(app, 161, 2), "and so it is with the builds")
        first, _ = sorted((await app.status()).builds, key=lambda each: each.name)
        assert "thirteen" in str(first.error)
        assert await app.projections.switch("zevents") == 2
        # As far as the one that serves, partition by partition.
        assert await app.projections.switch("totals") == 2


async def stands(app: App, head: int, generation: int) -> bool:
    """Whether each projection but one partition of the first has come to the head."""
    running = app._running
    assert running is not None
    at = [each for each in await running.read_store.checkpoints() if each.generation == generation]
    return sorted(each.progress.position for each in at) == [60, head, head]


async def built_beyond(app: App, position: int) -> bool:
    built = (await app.status()).builds
    return len(built) == 2 and all(each.position > position for each in built)


async def in_line(app: App) -> bool:
    return all(each.lag == 0 for each in (await app.status()).builds)


async def test_a_build_that_is_begun_while_old_ones_are_dropped_is_not_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    async with cluster.app([totals(1)]) as app:
        await happen(app, 5)
        await app.projections.rebuild(["totals"])
        await until(lambda: built_one(app), "built")
        await app.projections.switch("totals")
        checkpoints, once = cluster.read_store.checkpoints, iter([True])
        dropping: asyncio.Task[Any] | None = None

        async def between() -> Any:
            if asyncio.current_task() is dropping and next(once, False):
                await asyncio.create_task(app.projections.rebuild(["totals"]))  # type: ignore[arg-type]
                await until(lambda: stored(3), "begun meanwhile")
            return await checkpoints()

        async def stored(generation: int) -> bool:
            return generation in {each.generation for each in await checkpoints()}

        monkeypatch.setattr(cluster.read_store, "checkpoints", between)
        dropping = asyncio.create_task(app.projections.drop("totals"))
        assert await dropping == [1]
        await until(lambda: built_one(app), "built")
        assert await app.projections.switch("totals") == 3
        assert {each.generation for each in await checkpoints()} == {2, 3}


async def test_a_generation_that_is_dropped_leaves_no_lease_behind(cluster: Cluster) -> None:
    async with cluster.app([totals(4)]) as app:
        for generation in (2, 3):
            await happen(app, 5)
            await app.projections.rebuild(["totals"])
            await until(lambda: built_one(app), "built")
            await app.projections.switch("totals")
            await app.projections.drop("totals")
            await until(partial(serves, app, generation), "switched")
            await settled(app)
            running = app._running
            assert running is not None
            leases = (await running.synchronization.cluster.read()).leases
            assert {work_unit_named(lease_name).generation for lease_name in leases} == {generation}


async def test_of_several_all_are_begun_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    projections = [totals(1), Projection("zevents", count_events, key=CounterId)]
    async with cluster.app(projections) as app:
        await happen(app, 5)
        await app.projections.rebuild(["zevents"])
        await until(lambda: built_one(app), "built")
        await app.projections.switch("zevents")
        with pytest.raises(InvalidMessage, match="An earlier generation of 'zevents' is still on standby"):
            await app.projections.rebuild(["totals", "zevents"])
        assert [each.name for each in (await app.status()).builds] == ["zevents"]

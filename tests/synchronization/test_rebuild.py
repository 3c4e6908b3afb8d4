"""A rebuild beside the one that serves: answers go on, nobody goes back in time, and whoever is killed goes on."""

import asyncio
import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.sample_domains.counter_app_helpers import app_in, folded, settled, until
from tests.sample_domains.counters import (
    Count,
    Counted,
    CounterId,
    Ended,
    Total,
    TotalOf,
    Totals,
    add_up,
    count,
    counters,
)
from tests.synchronization.cluster_helpers import Cluster, happen, totals
from twofold.app import App
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module
from twofold.domain.process import Policy
from twofold.domain.projection import Projection
from twofold.errors import Conflict, InvalidMessage, Unavailable
from twofold.query_service.view import View
from twofold.synchronization.work_unit import work_unit_named

ROOT = Path(__file__).parents[2]


class Events(msgspec.Struct, frozen=True):
    """How many events a counter has seen."""

    count: int = 0


class Largest(msgspec.Struct, frozen=True):
    """The largest step of a counter."""

    by: int = 0


def count_events(row: Events | None, event: Counted | Ended) -> Events | None:
    return Events((row.count if row else 0) + 1)


def keep_largest(row: Largest | None, event: Counted) -> Largest | None:
    return Largest(max(event.by, row.by if row else 0))


FOLDS = {"events": count_events, "largest": keep_largest}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


async def built(app: App, name: str = "totals") -> bool:
    """Whether a rebuild has caught up with the log."""
    status = await app.status()
    return any(each.name == name and each.state == "building" and each.lag == 0 for each in status.builds)


async def switch(app: App, name: str = "totals") -> int:
    """Switch as soon as it can be: under load the new generation is now and then a moment behind."""
    while True:
        try:
            return await app.projections.switch(name)
        except Unavailable:
            await asyncio.sleep(0)


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


async def all_at(app: App, position: int) -> bool:
    return all(each.position == position for each in (await app.status()).followers)


async def serves(app: App, generation: int) -> bool:
    return app.models["totals"].generation == generation


async def test_what_cannot_be_switched_is_refused_in_a_sentence(tmp_path: Path) -> None:
    async with app_in(tmp_path) as app:
        with pytest.raises(InvalidMessage, match="No rebuild of 'totals' is under way"):
            await app.projections.switch("totals")
        with pytest.raises(InvalidMessage, match="No earlier generation of 'totals' is on standby"):
            await app.projections.switch_back("totals")
        await app.send(Count(["a"]))
        await app.projections.rebuild(["totals"])
        assert await app.projections.rebuild(["totals"]) == {"totals": 2}, "to begin again is to go on"
        await until(lambda: built(app), "built")
        await app.projections.switch("totals")
        with pytest.raises(InvalidMessage, match="still on standby"):
            await app.projections.rebuild(["totals"])


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

        async def watched(query: Any, after: int = 0, limit: int | None = None) -> Any:
            if limit == 10:
                read.append(after)
            return await reading(query, after, limit)

        monkeypatch.setattr(cluster.log, "read", watched)
        await app.projections.rebuild(names)
        for name in names:
            await until(lambda n=name: built(app, n), "built")
        assert [after for after in read if after < 200] == list(range(0, 200, 10)), "one pass, whoever it is for"


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


async def test_nobody_goes_back_in_time_while_generations_are_switched_under_load(cluster: Cluster) -> None:
    stop = asyncio.Event()
    one: dict[str, Any] = {"projections": [totals(partitions=1)]}
    async with cluster.node(**one) as first, cluster.node(**one) as second:
        sums, asked = Sums(cluster, first), [0] * 4

        async def writes() -> None:
            n = 0
            while not stop.is_set():
                await happen(first, 1, start=n)
                n += 1

        async def reads(app: App, reader: int) -> None:
            """Reads with the newest position known and without one: neither is ever answered with less than before."""
            random, seen = Random(reader), 0
            while not stop.is_set():
                token = first.token((await first.log()).head) if random.random() < 0.5 else None
                answer = await app.ask(Totals(), position=token, timeout=30)
                assert answer.position >= (first.position_of(token) if token else seen)
                assert answer.position >= seen
                seen = answer.position
                # What the rows say must be of that moment, too.
                assert sum(row.total for row in answer.value) == sums.at(answer.position)
                asked[reader] += 1
                # In memory nothing makes a caller wait: let the others have their turn.
                await asyncio.sleep(0)

        work = [asyncio.create_task(writes())]
        work += [asyncio.create_task(reads(app, reader)) for reader, app in enumerate((first, second) * 2)]
        for _ in range(4):
            await first.projections.rebuild(["totals"])
            await switch(first)
            await second.projections.drop("totals")
        await until(lambda: min(asked) > 3 or any(each.done() for each in work), "everybody asked")
        stop.set()
        await asyncio.gather(*work)
        assert first.models["totals"].generation == 5


class Sums:
    """The sum of all counters at each position, by a plain fold."""

    def __init__(self, cluster: Cluster, app: App) -> None:
        self._cluster = cluster
        self._app = app
        self._sums = [0]

    def at(self, position: int) -> int:
        for recorded, _ in self._cluster.log._events[len(self._sums) - 1 : position]:
            event = self._app.events.decode(recorded)
            self._sums.append(self._sums[-1] + event.by * len(set(event.counters)))
        return self._sums[position]


_REBUILDS = """
import asyncio, sys
from pathlib import Path
from tests.sample_domains.counter_app_helpers import app_in
from tests.synchronization.test_rebuild import built

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


def poisoned(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
    if isinstance(event, Counted) and event.by == 13:
        raise ArithmeticError("thirteen")
    return add_up(row, event, counter)


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


async def caught_up(app: App) -> bool:
    return all(each.lag == 0 for each in (await app.status()).followers)


async def test_no_partition_of_the_new_generation_may_be_behind_that_of_the_one_that_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    async with cluster.app([totals(2)]) as app:
        await happen(app, 10)
        await until(lambda: caught_up(app), "caught up")
        await app.projections.rebuild(["totals"])
        await until(lambda: built_one(app), "built")
        checkpoints = cluster.read_store.checkpoints

        async def partly() -> Any:
            """One partition of each stands at 4, as if it were halted there; of the new one the other is behind."""
            return [
                msgspec.structs.replace(
                    at,
                    progress=msgspec.structs.replace(
                        at.progress,
                        position={(1, 0): 10, (1, 2048): 4, (2, 0): 5, (2, 2048): 4}[at.generation, at.partition.first],
                    ),
                )
                for at in await checkpoints()
            ]

        monkeypatch.setattr(cluster.read_store, "checkpoints", partly)
        with pytest.raises(Unavailable, match="Generation 2 of 'totals' is 5 events behind"):
            await app.projections.switch("totals")
        monkeypatch.setattr(cluster.read_store, "checkpoints", checkpoints)
        assert await app.projections.switch("totals", generation=2) == 2


async def built_one(app: App) -> bool:
    return [each.lag for each in (await app.status()).builds] == [0]


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
            assert {work_unit_named(resource).generation for resource in leases} == {generation}


async def test_a_query_that_began_before_switch_and_drop_is_answered(tmp_path: Path) -> None:
    go, going = asyncio.Event(), asyncio.Event()

    async def slow(query: Totals, totals: View[Total]) -> list[Total]:
        before = await totals.get("a")
        going.set()
        await go.wait()
        found = await totals.find()
        assert found == [before]
        return found

    events, projection = [Counted, Ended], Projection("totals", add_up, key=CounterId)
    module = Module("counters", events=events, decisions=[count], projections=[projection], queries=[slow])
    async with app_in(tmp_path, module) as app:
        sent = await app.send(Count(["a"], 3))
        asked = asyncio.create_task(app.ask(Totals(), position=sent.token))
        await going.wait()
        await app.projections.rebuild(["totals"])
        await until(lambda: built_one(app), "built")
        await app.projections.switch("totals")
        assert await app.projections.drop("totals") == [1]
        go.set()
        assert [each.total for each in (await asked).value] == [3]


async def test_a_switch_takes_a_key_back_to_an_earlier_event_only_where_it_is_forced(cluster: Cluster) -> None:
    bad = {5}

    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by in bad:
            raise ArithmeticError("not this one")
        return add_up(row, event, counter)

    async def generation(after: int) -> int:
        """A new one, which cannot fold the event that adds `after`."""
        bad.clear()
        bad.add(after)
        number = (await app.projections.rebuild(["totals"]))["totals"]
        await until(lambda: built_one(app), "built")
        return number

    async with cluster.app([Projection("totals", fold, key=CounterId)], fold_retries=0) as app:
        for by in range(1, 8):
            await app.send(Count(["a"], by))
        await until(lambda: caught_up(app), "caught up")
        number = await generation(2)
        with pytest.raises(
            InvalidMessage, match=r"1 parked keys that the one that serves does not have, or has only at a later"
        ):
            await app.projections.switch("totals")
        await app.projections.drop("totals")
        assert await generation(6) == number + 1
        assert await app.projections.switch("totals") == number + 1, "further than the one that served"
        await app.projections.drop("totals")
        assert await generation(2) == await app.projections.switch("totals", force=True)


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


async def test_another_generation_than_the_one_that_was_looked_at_is_not_switched_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    async with cluster.app([totals(1)]) as app:
        await happen(app, 5)
        await app.projections.rebuild(["totals"])
        await until(lambda: built_one(app), "built")
        await app.projections.drop("totals")
        assert await app.projections.rebuild(["totals"]) == {"totals": 3}
        await until(lambda: built_one(app), "built")
        with pytest.raises(Conflict, match="Generation 3 of 'totals' is under way, not generation 2"):
            await app.projections.switch("totals", generation=2)
        assert await app.projections.switch("totals", generation=3) == 3

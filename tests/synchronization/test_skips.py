"""What operators have passed over is left out by whoever folds, wherever and whenever; and nothing else is."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Total, add_up, counters
from tests.synchronization.cluster_helpers import Cluster, follows, shares
from tests.synchronization.parking_helpers import (
    HOT,
    Poison,
    builds,
    caught_up,
    folded,
    nothing_parked,
    parked,
    rows,
    sent,
    status_of,
)
from twofold.app import App
from twofold.domain.projection import Projection
from twofold.errors import TwofoldError, Unavailable
from twofold.operations.audit import audit
from twofold.read_store.port import Change

KEYS = [f"c{n}" for n in range(6)]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def node(cluster: Cluster, poison: Poison, partitions: int = 1) -> App:
    return cluster.app([Projection("totals", poison.fold, key=CounterId, partitions=partitions)], fold_retries=0)


async def built(app: App) -> bool:
    return [each.lag for each in (await app.status()).builds] == [0]


async def served_by(app: App, generation: int) -> bool:
    return (await status_of(app)).generation == generation


async def test_two_skips_at_once_are_both_done(cluster: Cluster) -> None:
    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by == 13:
            raise ArithmeticError("13")
        return add_up(row, event, counter)

    async with cluster.app([Projection("totals", fold, key=CounterId)], fold_retries=0) as app:
        for key in (HOT, "other"):
            for by in (1, 13, 3):
                await app.send(Count([key], by))
        await until(lambda: caught_up(app), "caught up")
        acts = await asyncio.gather(*(app.projections.skip("totals", key) for key in (HOT, "other")))
        assert [act.done for act in acts] == [True, True]
        await until(lambda: nothing_parked(app), "both are done")


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_can_be_folded_by_now_is_not_left_out_by_a_skip(cluster: Cluster, restarted: bool) -> None:
    poison = Poison({2, 3})
    async with node(cluster, poison) as app:
        await sent(app, 1, 2, 3, 4)
        assert (await parked(app))[HOT][0] == 2
        if not restarted:
            poison.amounts = {3}
            act = await app.projections.skip("totals", HOT)
            assert not act.done
            assert act.outcome.startswith("Nothing was skipped, because the event at 2 can be folded now.")
    poison.amounts = {3}
    async with node(cluster, poison) as app:

        async def stands_at_what_fails() -> bool:
            return await parked(app) == {HOT: (3, 1)}

        await until(stands_at_what_fails, "taken up, and parked where it fails now")
        assert (await app.projections.skip("totals", HOT)).position == 3
        await until(lambda: nothing_parked(app), "freed")
        assert await rows(app) == await folded(app, {(HOT, 3)})


async def test_a_skip_is_refused_where_the_key_is_parked_at_another_event_than_the_operator_saw(
    cluster: Cluster,
) -> None:
    async with node(cluster, Poison({2, 3})) as app:
        await sent(app, 1, 2, 3, 4)
        seen = (await parked(app))[HOT][0]
        assert seen == 2
        # Another operator is first.
        assert (await app.projections.skip("totals", HOT, seen)).done

        async def stands_at_the_next() -> bool:
            return await parked(app) == {HOT: (3, 1)}

        await until(stands_at_the_next, "parked at the next event that fails")
        act = await app.projections.skip("totals", HOT, seen)
        assert (act.done, act.position) == (False, 0)
        assert act.outcome.startswith(f"'{HOT}' is parked at 3 now, not at 2. Nothing is skipped")
        assert await parked(app) == {HOT: (3, 1)}
        assert (await app.projections.skip("totals", HOT, 3)).done
        await until(lambda: nothing_parked(app), "freed")


async def test_a_skip_that_comes_while_a_retry_is_under_way_passes_over_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison({2})
    async with node(cluster, poison) as app:
        await sent(app, 1, 2, 3)
        poison.amounts = set()
        save, slow, going = cluster.read_store.save, asyncio.Event(), asyncio.Event()

        async def save_slowly(change: Change) -> None:
            if change.parked.get(HOT, 1) is None:
                going.set()
                await slow.wait()
            await save(change)

        monkeypatch.setattr(cluster.read_store, "save", save_slowly)
        retry = asyncio.create_task(app.projections.retry("totals", HOT))
        await going.wait()
        skip = asyncio.create_task(app.projections.skip("totals", HOT))

        async def asked() -> bool:
            return any(each.record.what == "skip" for each in (await control(app).read()).requests.values())

        await until(asked, "asked for while the retry is under way")
        slow.set()
        assert ((await retry).done, (await skip).done) == (True, False)
        assert (await audit(app, cluster.log, cluster.read_store, "totals")).all_right


def control(app: App) -> Any:
    running = app._running
    assert running is not None
    return running.synchronization.cluster


async def test_a_key_whose_skip_another_node_takes_over_can_be_skipped_further(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison({2, 3})
    async with node(cluster, poison) as one, node(cluster, poison) as two:
        await sent(one, 1, 2, 3, 4)
        await until(lambda: bool(follows(one)) != bool(follows(two)), "one of them follows")
        owner, other = (one, two) if follows(one) else (two, one)
        (worker,) = shares(owner).values()

        async def ends(*_: Any) -> float:
            raise Unavailable("the process ends here")

        monkeypatch.setattr(worker.follower, "retry_pending", ends)
        assert (await owner.projections.skip("totals", HOT)).position == 2
        await owner.stop()
        await until(lambda: follows(other), "taken over")

        async def further() -> bool:
            return await parked(other) == {HOT: (3, 1)}

        await until(further, "passed over, and parked at the next that fails")
        assert (await other.projections.skip("totals", HOT)).position == 3
        await until(lambda: nothing_parked(other), "freed")
        assert await rows(other) == await folded(other, {(HOT, 2), (HOT, 3)})


async def test_a_skip_reaches_a_partition_that_is_merged_meanwhile(cluster: Cluster) -> None:
    poison = Poison({2, 4})
    async with node(cluster, poison, partitions=2) as app:
        await sent(app, 1, 2, 3, 4, 5)
        skip, merge = await asyncio.gather(
            app.projections.skip("totals", HOT), app.projections.merge("totals", "0-2048")
        )
        assert (skip.done, merge.done) == (True, True)

        async def further() -> bool:
            return HOT in (aside := await parked(app)) and aside[HOT][0] == 4

        await until(further, "parked at the next that fails")
        assert (await app.projections.skip("totals", HOT)).position == 4
        await until(lambda: nothing_parked(app), "freed")
        assert await rows(app) == await folded(app, {(HOT, 2), (HOT, 4)})


@pytest.mark.parametrize("nodes", [1, 2])
async def test_what_only_a_build_is_parked_at_can_be_skipped_whoever_builds(cluster: Cluster, nodes: int) -> None:
    poison = Poison(set())
    async with node(cluster, poison) as one:
        await sent(one, 1, 13, 3)
        poison.amounts = {13}
        apps = [one]
        if nodes == 2:
            apps.append(node(cluster, poison))
            await apps[1].start()
        await one.projections.rebuild(["totals"])

        def placed() -> bool:
            return len({share.kind for app in apps for share in shares(app)}) == 2 and all(map(shares, apps))

        await until(placed, "one follows, one builds")
        await until(lambda: builds(one, 1), "parked in the build only")
        act = await one.projections.skip("totals", HOT)
        assert (act.done, act.position) == (True, 2)
        await until(lambda: builds(one, 0), "freed")
        # The one that serves had folded it: what is on record holds for every generation.
        await until(lambda: audited(one, cluster), "made good")
        assert await rows(one) == await folded(one, {(HOT, 2)})
        for app in apps[1:]:
            await app.stop()


async def audited(app: App, cluster: Cluster) -> bool:
    return (await audit(app, cluster.log, cluster.read_store, "totals")).all_right


@pytest.mark.parametrize("which", ["build", "standby"])
async def test_a_key_parked_in_a_generation_that_does_not_serve_can_be_retried(cluster: Cluster, which: str) -> None:
    poison = Poison({13} if which == "standby" else set())
    async with node(cluster, poison) as app:
        await sent(app, 1, 13, 3)
        poison.amounts = {13} if which == "build" else set()
        await app.projections.rebuild(["totals"])
        if which == "standby":
            await until(lambda: built(app), "built")
            await app.projections.switch("totals")
        await until(lambda: builds(app, 1), "parked there only")
        poison.amounts = set()
        assert (await app.projections.retry("totals", HOT)).done
        await until(lambda: builds(app, 0), "freed")


async def test_a_build_that_has_folded_what_is_passed_over_makes_that_good(cluster: Cluster) -> None:
    poison = Poison({13})
    async with node(cluster, poison) as app:
        await sent(app, 1, 13, 3)
        poison.amounts = set()
        await app.projections.rebuild(["totals"])
        await until(lambda: built(app), "built, with the event at 2")
        poison.amounts = {13}
        assert (await app.projections.skip("totals", HOT)).position == 2
        await until(lambda: nothing_parked(app), "freed")
        await app.projections.switch("totals")
        await until(lambda: served_by(app, 2), "switched")
        await until(lambda: audited(app, cluster), "made good")
        assert await rows(app) == await folded(app, {(HOT, 2)})


async def test_what_is_passed_over_in_one_read_store_is_not_left_out_of_another(cluster: Cluster) -> None:
    bad = node(cluster, Poison({2}))
    async with bad:
        mine = cluster.views_apart()
        async with node(cluster, Poison(set())) as good:
            await sent(good, 1, 2, 3)
            await until(lambda: caught_up(bad), "caught up")
            right = {key: stored.row for key, stored in await mine.raw_rows("totals", 1, "", 10)}
            assert (await bad.projections.skip("totals", HOT)).done
            await until(lambda: nothing_parked(bad), "freed")
            assert (await audit(good, cluster.log, mine, "totals")).all_right
            await good.projections.rebuild(["totals"])
            await until(lambda: built(good), "built")
            assert {key: stored.row for key, stored in await mine.raw_rows("totals", 2, "", 10)} == right


@pytest.mark.parametrize("last", [6, 14], ids=["the last one can be folded", "the last one fails, too"])
async def test_a_skip_behind_which_a_row_cannot_be_saved_stops_nobody_else(tmp_path: Path, last: int) -> None:
    poison = Poison({13, 14})

    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        row = poison.fold(row, event, counter)
        # No store keeps a number of more than 64 bits in a column.
        wide = row is not None and counter == HOT and isinstance(event, Counted) and event.by == 99
        return Total(counter, 2**63, 0) if wide else row

    async with app_in(tmp_path, counters(fold, find_by=["total"]), fold_retries=0) as app:
        await sent(app, 1, 13, 5, 99, last)
        assert (await app.projections.skip("totals", HOT)).done

        async def stands_at_what_cannot_be_saved() -> bool:
            return await parked(app) == {HOT: (4, 1)}

        await until(stands_at_what_cannot_be_saved, "parked at the one that cannot be saved")
        await app.send(Count(["innocent"], 5))
        await until(lambda: caught_up(app), "others go on")
        assert await rows(app) == await folded(app, {(HOT, 2)}, {HOT: 4})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("unlogged")
async def test_whatever_operators_do_at_once_rows_are_the_fold_without_what_is_on_record(
    seed: int, cluster: Cluster
) -> None:
    random = Random(seed)
    bad: set[int] = set()

    def fold(row: Total | None, event: Counted | Ended, counter: CounterId) -> Total | None:
        if isinstance(event, Counted) and event.by in bad:
            raise ArithmeticError(str(event.by))
        return add_up(row, event, counter)

    given: dict[str, Any] = {"projections": [Projection("totals", fold, key=CounterId, partitions=2)]}
    apps = [cluster.app(**given, fold_retries=0)]
    await apps[0].start()
    stop = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            if random.random() < 0.05:
                bad.add(n)
            await apps[0].send(Count(random.sample(KEYS, random.randint(1, 2)), n))
            await asyncio.sleep(0.01)

    async def operate(turns: int) -> None:
        for _ in range(turns):
            app = random.choice(apps)
            try:
                await act(app)
            except TwofoldError as error:
                # What it was about is gone, or another has come first: operators are reported so all day.
                assert str(error)
            await asyncio.sleep(random.random() * 0.05)

    async def act(app: App) -> None:
        (follower,) = (await app.status()).followers
        aside = [each.key for each in follower.parked]
        what = random.choice(
            ["skip", "skip", "retry", "fix", "split", "merge", "rebuild", "switch", "drop", "switch_back"]
        )
        if what == "fix" and aside:
            bad.discard(int(random.choice(follower.parked).error.split(": ")[1]))
        elif what in ("skip", "retry") and aside:
            await getattr(app.projections, what)("totals", random.choice(aside), timeout=3)
        elif what in ("split", "merge"):
            part = random.choice(follower.partitions).partition
            await getattr(app.projections, what)("totals", part, timeout=3)
        elif what == "rebuild":
            await app.projections.rebuild(["totals"])
        elif what in ("switch", "drop", "switch_back"):
            await getattr(app.projections, what)("totals", **({"force": True} if what == "switch" else {}))

    async def come_and_go() -> None:
        while not stop.is_set():
            await asyncio.sleep(random.random())
            if len(apps) < 3 and random.random() < 0.6:
                app = cluster.app(**given, fold_retries=0)
                await app.start()
                apps.append(app)
            elif len(apps) > 1:
                await apps.pop().stop()

    beside = [asyncio.create_task(each()) for each in (write, come_and_go)]
    await asyncio.gather(*(operate(40) for _ in range(3)))
    stop.set()
    await asyncio.gather(*beside)
    bad.clear()
    app = apps[0]

    async def settled() -> bool:
        status = await app.status()
        (follower,) = status.followers
        for each in follower.parked:
            try:
                await app.projections.retry("totals", each.key, timeout=3)
            except TwofoldError as error:
                assert str(error)
        left = follower.lag or follower.parked or any(build.lag for build in status.builds)
        return not left and await audited(app, cluster)

    await until(settled, "settled")
    acts = (await app.projections.actions()).values()
    skipped = {(act.key, act.position) for act in acts if act.what == "skip" and act.done}
    right = {key: msgspec.to_builtins(row) for key, row in (await folded(app, skipped)).items()}
    stored = await cluster.read_store.raw_rows("totals", (await status_of(app)).generation, "", 100)
    assert {key: each.row for key, each in stored if each.row is not None} == right
    for each in reversed(apps):
        await each.stop()

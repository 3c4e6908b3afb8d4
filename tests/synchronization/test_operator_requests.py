"""What an operator asks of a parked key is done once and put on record, whatever fails in between."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import (
    Count,
    CounterId,
)
from tests.synchronization.cluster_helpers import Cluster
from tests.synchronization.parking_helpers import (
    HOT,
    Poison,
    builds,
    folded,
    module,
    nothing_parked,
    parked,
    rows,
    sent,
)
from twofold.app import App
from twofold.domain.projection import Projection
from twofold.errors import Unavailable
from twofold.read_store.port import Change


async def test_a_skip_that_is_on_record_counts_although_the_process_ends_before_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison({2})
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await sent(app, 1, 2, 3)
        running = app._running
        assert running is not None
        (worker,) = running.synchronization.workers

        async def ends(*_: Any) -> None:
            raise Unavailable("the process ends here")

        monkeypatch.setattr(worker.follower, "retry_pending", ends)
        act = await app.projections.skip("totals", HOT)
        assert (act.done, act.position) == (True, 2)
        assert await parked(app) == {HOT: (2, 1)}
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await until(lambda: nothing_parked(app), "taken up")
        assert await rows(app) == await folded(app, {(HOT, 2)})


async def test_a_retry_that_is_done_and_not_put_on_record_is_done_again_without_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison({2})
    async with app_in(tmp_path, module(poison), fold_retries=0) as app:
        await sent(app, 1, 2, 3)
        poison.amounts = set()
        running = app._running
        assert running is not None
        write, lost = running.synchronization.cluster.write, iter([True])

        async def loses(*writes: Any) -> bool:
            if any(each.space == "acts" for each in writes) and next(lost, False):
                raise Unavailable("the record is lost on the way")
            return await write(*writes)

        monkeypatch.setattr(running.synchronization.cluster, "write", loses)
        act = await app.projections.retry("totals", HOT)
        assert "not parked" in act.outcome, "the second time it was free already"
        assert await rows(app) == await folded(app, set())


async def test_who_asks_in_vain_takes_its_request_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    async with cluster.node() as app:
        running = app._running
        assert running is not None
        monkeypatch.setattr(running.synchronization.requests, "start_new", lambda *_: None)
        with pytest.raises(Unavailable, match=r"No node that follows 'totals' answered within 0\.1 s"):
            await app.projections.skip("totals", HOT, timeout=0.1)
        assert (await running.synchronization.cluster.read()).requests == {}


async def test_a_skip_that_is_asked_for_twice_at_once_passes_over_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    poison = Poison({2, 3})
    async with cluster.app([Projection("totals", poison.fold, key=CounterId)], fold_retries=0) as app:
        await sent(app, 1, 2, 3, 4)
        acts = await asyncio.gather(*(app.projections.skip("totals", HOT) for _ in range(2)))
        await until(lambda: moved_on(app), "parked at the next one, or not at all")
        done = {act.position for act in acts if act.done}
        left = {(HOT, position) for position in done}
        assert await rows(app) == await folded(app, left, {key: at for key, (at, _) in (await parked(app)).items()})


async def moved_on(app: App) -> bool:
    return (await parked(app)).get(HOT, (3, 0))[0] > 2


async def test_a_skip_is_done_although_the_read_store_was_away_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    poison = Poison({13})
    async with cluster.app([Projection("totals", poison.fold, key=CounterId)], fold_retries=0) as app:
        await sent(app, 1, 13, 3)
        save, away = cluster.read_store.save, iter([True, True])

        async def fails(change: Change) -> None:
            if HOT in change.parked and next(away, False):
                raise Unavailable("away for a moment")
            await save(change)

        monkeypatch.setattr(cluster.read_store, "save", fails)
        assert (await app.projections.skip("totals", HOT)).done
        await until(lambda: free(app), "freed without anybody asking again")
        assert next(away, None) is None
        assert await rows(app) == await folded(app, {(HOT, 2)})


async def free(app: App) -> bool:
    return not await parked(app)


async def test_a_skip_reaches_what_is_being_built_and_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    poison = Poison({13, 14})
    async with cluster.app([Projection("totals", poison.fold, key=CounterId)], fold_retries=0) as app:
        await sent(app, 1, 13, 3)
        await app.projections.rebuild(["totals"])
        await until(lambda: builds(app, 1), "parked in the build as well")
        await app.projections.skip("totals", HOT)
        await until(lambda: builds(app, 0), "freed in the build as well")
        await until(lambda: nothing_parked(app), "freed where it serves")
        assert await app.projections.switch("totals") == 2
        await app.send(Count([HOT], 14))
        await until(lambda: builds(app, 1), "parked on standby as well")
        assert (await app.projections.skip("totals", HOT)).done
        await until(lambda: builds(app, 0), "freed there as well")
        assert await app.projections.switch_back("totals") == 1
        assert await rows(app) == await folded(app, {(HOT, 2), (HOT, 4)})

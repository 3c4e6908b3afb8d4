"""Saves that are interrupted, late or repeated: rows in Cassandra are the fold of the log, and finds return them."""

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from cassandra import OperationTimedOut

from tests.read_store.cassandra_follower import (
    MODEL,
    Event,
    Interrupted,
    Interruption,
    answers,
    change_of,
    expected,
    follow,
    made_up,
    make_interruptible,
    start_save,
)
from tests.servers.cassandra import Cassandra, fresh_keyspace
from twofold.errors import Conflict
from twofold.read_store.cassandra import CassandraReadStore
from twofold.read_store.cassandra.errors import OutcomeUnknown
from twofold.read_store.parked_summary import summary_of
from twofold.read_store.partition import Partition, shares
from twofold.read_store.port import Change, Parked, Progress, VersionedRow
from twofold.testing.read_store_rows import LOG, ORDERS, Order, at, found_rows, keys, loaded, parked_keys, progress

ROOT = Path(__file__).parents[2]
_generations = itertools.count(1)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[CassandraReadStore]:
    store = await CassandraReadStore.open(url, patience=60.0)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def url(cassandra: Cassandra) -> str:
    return cassandra.url(fresh_keyspace())


def _made_up(random: Random) -> list[Event]:
    """A log of few keys that move between few places."""

    def row() -> Order | None:
        return Order(random.choice(["ann", "bob"]), random.randrange(3), random.choice([None, "x"]))

    return [(random.choice("aab"), row() if random.random() < 0.8 else None) for _ in range(random.randint(3, 12))]


async def _survives(store: CassandraReadStore, random: Random, *, drop: bool) -> None:
    """Saves that are interrupted, or delayed to the end, and others that continue with other pages."""
    log = _made_up(random)
    model = msgspec.structs.replace(MODEL, generation=next(_generations))
    await store.prepare([model])
    late: list[tuple[Interruption, asyncio.Task[None]]] = []
    try:
        for _ in range(random.randint(1, 5)):
            change = await change_of(store, model, log, random.randint(1, 8))
            if change is None:
                break
            interruption = Interruption(random.randrange(30), waits=random.random() < 0.4)
            late.append((interruption, await start_save(store, change, interruption)))
        await follow(store, model, log, random.randint(1, 8))
        wanted = await expected(model, log)
        assert await answers(store, model, log) == wanted
    finally:
        for interruption, _ in late:
            interruption.release()
        ends = await asyncio.gather(*(saving for _, saving in late), return_exceptions=True)
    assert {type(end) for end in ends} <= {type(None), Interrupted, Conflict}
    assert await answers(store, model, log) == wanted
    if drop:
        await store.drop(model.name, model.generation)


@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(25, 600), marks=pytest.mark.torture)], ids=str)
@pytest.mark.timeout(1_800)
async def test_saves_broken_off_or_held_up_anywhere_leave_what_the_log_says(url: str, seeds: range) -> None:
    async with _opened(url) as store:
        make_interruptible(store)
        for seed in seeds:
            # On their own, there are more statements to break off between.
            with patch("twofold.read_store.cassandra.saving._LARGEST_BATCH", 4_000 if seed % 3 == 0 else 1):
                try:
                    # Cassandra does not bear thousands of tables; to drop two takes a while.
                    await _survives(store, Random(seed), drop=len(seeds) > 25)
                except AssertionError as error:
                    error.add_note(f"seed {seed}")
                    raise


@pytest.mark.parametrize(
    ("step", "statements"),
    [("finds", 0), ("finds", 5), ("moves", 0), ("moves", 3), ("rows", 0), ("rows", 1), ("checkpoint", 0)],
)
async def test_a_process_killed_while_it_saves_is_made_good_whatever_the_pages_of_the_next(
    url: str, step: str, statements: int
) -> None:
    log = made_up(90)
    program = [sys.executable, "-m", "tests.read_store.cassandra_follower", url, "90", "30", step, str(statements)]
    killed = await asyncio.create_subprocess_exec(*program, cwd=ROOT)
    assert await killed.wait() == -signal.SIGKILL
    for page in (7, 13):
        async with _opened(url) as store:
            await store.prepare([MODEL])
            if page == 7:
                assert (await progress(store, MODEL)).position == 30
                change = await change_of(store, MODEL, log, page)
                assert change is not None
                await store.save(change)
            else:
                await follow(store, MODEL, log, page)
                assert await answers(store, MODEL, log) == await expected(MODEL, log)


async def test_an_older_version_that_comes_late_from_elsewhere_never_wins_whatever_the_clocks_say(url: str) -> None:
    async with _opened(url) as store, _opened(url) as fast, _opened(url) as slow:
        for each, microseconds in ((fast, 2**60), (slow, 1)):
            each._connection.session.cluster.timestamp_generator = lambda microseconds=microseconds: microseconds
        for each in (store, fast, slow):
            await each.prepare([ORDERS])
        newer, older = Order("bob", 9), Order("ann", 5)
        await slow.save(
            Change(ORDERS, LOG, 0, 1, 0, {"a": VersionedRow(newer, 9, 0, (older,)), "b": VersionedRow(newer, 9, 1)})
        )
        await fast.save(Change(ORDERS, LOG, 1, 2, 0, {"a": VersionedRow(older, 8), "b": VersionedRow(newer, 99, 0)}))
        assert await store.load(ORDERS, ["a", "b"]) == {"a": VersionedRow(newer, 9), "b": VersionedRow(newer, 9, 1)}
        assert await keys(store, ORDERS, {"customer": "ann"}) == []
        assert await keys(store, ORDERS, {"customer": "bob"}, order_by="total") == ["a", "b"]
        await fast.save(Change(ORDERS, LOG, 2, 3, 0, {"a": VersionedRow(None, 10, 0, (newer,))}))
        await fast.save(Change(ORDERS, LOG, 3, 4, 0, {"a": VersionedRow(newer, 9, 0, (older,))}))
        assert await store.load(ORDERS, ["a"]) == {"a": VersionedRow(None, 10)}
        assert await keys(store, ORDERS) == ["b"]
        await slow.save(Change(ORDERS, LOG, 4, 5, 0, {"a": VersionedRow(older, 11)}))
        assert await found_rows(store, ORDERS, {"customer": "ann"}) == [("a", older)]


async def test_a_deleted_row_is_told_of_for_a_week_and_one_that_comes_again_stays(url: str) -> None:
    async with _opened(url) as store:
        await store.prepare([ORDERS])
        await store.save(Change(ORDERS, LOG, 0, 1, 0, {"a": VersionedRow(Order(), 1), "b": VersionedRow(Order(), 1)}))
        await store.save(Change(ORDERS, LOG, 1, 2, 0, {key: VersionedRow(None, 2, 0, (Order(),)) for key in "ab"}))
        await store.save(Change(ORDERS, LOG, 2, 3, 0, {"b": VersionedRow(Order(total=3), 3)}))
        ttl = f"select key, ttl(row) from {store._tables['orders', 1].rows}"
        left = dict(await store._connection.rows(ttl))
        assert left["b"] is None
        assert 6 * 24 * 3600 < left["a"] <= 7 * 24 * 3600


async def test_that_a_repaired_row_was_deleted_is_never_forgotten_so_that_it_can_come_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twofold.read_store.cassandra.saving._A_WEEK", 1)
    row = Order("ann", 1)
    async with _opened(url) as store:
        await store.prepare([ORDERS])
        await store.save(Change(ORDERS, LOG, 0, 1, 0, {"a": VersionedRow(row, 1, 1), "b": VersionedRow(row, 1)}))
        gone = {"a": VersionedRow(None, 2, 1, (row,)), "b": VersionedRow(None, 2, 0, (row,))}
        await store.save(Change(ORDERS, LOG, 1, 2, 0, gone))
        await asyncio.sleep(2.5)
        known = await store.load(ORDERS, ["a", "b"])
        assert known == {"a": VersionedRow(None, 2, 1)}, "the other one may be forgotten"
        again = {key: VersionedRow(row, 3, known[key].repair if key in known else 0) for key in ("a", "b")}
        await store.save(Change(ORDERS, LOG, 2, 3, 0, again))
        assert await loaded(store, ORDERS, ["a", "b"]) == {"a": row, "b": row}
        assert await found_rows(store, ORDERS, {"customer": "ann"}) == [("a", row), ("b", row)]


async def test_a_follower_of_an_older_epoch_is_refused_before_it_writes(url: str) -> None:
    async with _opened(url) as store, _opened(url) as stale:
        for each in (store, stale):
            await each.prepare([ORDERS])
        await store.save(Change(ORDERS, LOG, 0, 3, 0, at(3, {"a": Order(total=3)}), epoch=2))
        with pytest.raises(Conflict, match="a later epoch than 1 has saved it"):
            await stale.save(Change(ORDERS, LOG, 3, 4, 0, at(4, {"a": Order("bob", 4)}), epoch=1))
        assert await found_rows(store, ORDERS) == [("a", Order(total=3))]


async def test_a_follower_that_is_overtaken_while_it_writes_is_refused_and_spoils_nothing(url: str) -> None:
    async with _opened(url) as store, _opened(url) as stale:
        make_interruptible(stale)
        for each in (store, stale):
            await each.prepare([ORDERS])
        await store.save(Change(ORDERS, LOG, 0, 1, 0, at(1, {"a": Order()})))
        hanging = Interruption(2, waits=True)
        old = Change(ORDERS, LOG, 1, 5, 0, {"a": VersionedRow(Order("bob", 5), 5, 0, (Order(),))}, epoch=1)
        saving = await start_save(stale, old, hanging)
        moved = {"a": VersionedRow(Order("cid", 6), 6, 0, (Order(), Order("bob", 5)))}
        await store.save(Change(ORDERS, LOG, 1, 6, 0, moved, epoch=2))
        hanging.release()
        with pytest.raises(Conflict, match="'orders' is at 6"):
            await saving
        assert [await keys(store, ORDERS, {"customer": each}) for each in ("ann", "bob", "cid")] == [[], [], ["a"]]
        assert (await progress(store, ORDERS)).position == 6


@pytest.mark.parametrize("when", ["at once", "never", "after it was looked up"])
async def test_a_checkpoint_whose_answer_was_lost_is_moved_once(url: str, when: str) -> None:
    async with _opened(url) as store:
        await store.prepare([ORDERS])
        decide, asked = store._connection.decide, 0

        async def losing(statement: Any) -> bool:
            nonlocal asked
            asked += 1
            if asked == 1 and when == "at once":
                assert await decide(statement)
            if asked == 1:
                raise OutcomeUnknown("no response") from OperationTimedOut()
            if when == "after it was looked up":
                assert await decide(statement)
            return await decide(statement)

        with patch.object(store._connection, "decide", losing):
            parked = {"p": Parked("p", 4, "no", 9)}
            summary = summary_of(parked)
            change = Change(ORDERS, LOG, 0, 4, 7, at(4, {"a": Order()}), parked, epoch=1, summary=summary)
            await store.save(change)
        assert asked == (1 if when == "at once" else 2)
        assert await progress(store, ORDERS) == Progress(4, LOG, 7, summary)
        assert await parked_keys(store, ORDERS) == (parked["p"],)


async def test_a_later_epoch_that_saves_nothing_shuts_out_whoever_is_writing(url: str) -> None:
    async with _opened(url) as store, _opened(url) as stale:
        make_interruptible(stale)
        for each in (store, stale):
            await each.prepare([ORDERS])
        hanging = Interruption(2, waits=True)
        saving = await start_save(stale, Change(ORDERS, LOG, 0, 5, 0, at(5, {"a": Order()}), epoch=1), hanging)
        await store.save(Change(ORDERS, LOG, 0, 0, 0, epoch=2))
        hanging.release()
        with pytest.raises(Conflict, match="a later epoch than 1 has saved it"):
            await saving
        assert (await progress(store, ORDERS)).position == 0


async def test_a_checkpoint_whose_answer_was_lost_and_that_another_moved_is_a_conflict(url: str) -> None:
    async with _opened(url) as store, _opened(url) as other:
        for each in (store, other):
            await each.prepare([ORDERS])

        async def losing(statement: Any) -> bool:
            await other.save(Change(ORDERS, LOG, 0, 4, 0))
            raise OutcomeUnknown("no response") from OperationTimedOut()

        with patch.object(store._connection, "decide", losing):
            saving = store.save(Change(ORDERS, LOG, 0, 4, 0))
            with pytest.raises(Conflict):
                await asyncio.wait_for(saving, 30)


async def test_followers_of_many_partitions_save_at_once(url: str) -> None:
    model = msgspec.structs.replace(ORDERS, partitions=8)
    async with _opened(url) as store, _opened(url) as other:
        for each in (store, other):
            await each.prepare([model])

        async def keep_on(share: Partition, by: CassandraReadStore) -> None:
            for n in range(5):
                rows = at(n + 1, {f"k{i}": Order(total=i) for i in range(40) if share.holds(f"k{i}")})
                await by.save(Change(model, LOG, n, n + 1, 0, rows, partition=share))

        await asyncio.gather(*(keep_on(share, (store, other)[n % 2]) for n, share in enumerate(shares(8))))
        assert (await progress(store, model)).position == 5
        assert len(await keys(store, model, order_by="total")) == 40


async def test_more_parked_keys_than_one_statement_takes_are_kept_and_cleared(url: str) -> None:
    parked = {f"k{n:04}": Parked(f"k{n:04}", 5, "x" * 500, n) for n in range(450)}
    async with _opened(url) as store:
        await store.prepare([ORDERS])
        await store.save(Change(ORDERS, LOG, 0, 5, 0, {}, parked))
        assert await parked_keys(store, ORDERS) == tuple(parked.values())
        with pytest.raises(Conflict):
            await store.save(Change(ORDERS, LOG, 0, 6, 0, {}, dict.fromkeys(parked)))
        assert len(await parked_keys(store, ORDERS)) == 450
        await store.save(Change(ORDERS, LOG, 5, 6, 0, {}, dict.fromkeys(parked)))
        assert await progress(store, ORDERS) == Progress(6, LOG, 0)


async def test_calls_that_are_cancelled_disturb_no_others(url: str) -> None:
    rows = {f"k{n}": Order(total=n) for n in range(600)}
    async with _opened(url) as store:
        await store.prepare([ORDERS])
        await store.save(Change(ORDERS, LOG, 0, 1, 0, at(1, rows)))
        for turns in range(0, 60, 3):
            calls = [
                asyncio.create_task(store.load(ORDERS, list(rows))),
                asyncio.create_task(found_rows(store, ORDERS, order_by="total")),
                asyncio.create_task(store.save(Change(ORDERS, LOG, 1, 2, 0, at(2, rows)))),
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert len(await store.load(ORDERS, ["k1", "k2", "absent"])) == 2
        assert [key for key, _ in await found_rows(store, ORDERS, order_by="total")] == list(rows)

"""A save is several writes: interrupted, repeated or overtaken, it leaves rows that are the fold of the log."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest

from tests.read_store.mongodb_follower import change, fold_of_all, follow
from tests.read_store.mongodb_helpers import fail, opened
from tests.servers.mongodb import ReplicaSet
from twofold.errors import Conflict
from twofold.read_store.mongodb.checkpoints import MongoCheckpoints
from twofold.read_store.mongodb.saving import write_rows
from twofold.read_store.port import Change, Parked, RawRow, ReadStore, VersionedRow
from twofold.testing.read_store_rows import LOG, ORDERS, Order, found_rows, keep, loaded, parked_keys, progress

ROOT = Path(__file__).parents[2]


def follower(url: str, upto: int, batch: int, how: str) -> "subprocess.Popen[str]":
    """A follower in its own process, which prints each checkpoint it has reached."""
    program = [sys.executable, "-m", "tests.read_store.mongodb_follower", url, str(upto), str(batch), how]
    return subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True)


async def is_fold(store: ReadStore, position: int) -> None:
    """Assert that the read model is at a position, and is the fold of the log up to there."""
    assert (await progress(store, ORDERS)).position == position
    rows = dict(await found_rows(store, ORDERS))
    assert rows == fold_of_all(position)
    by_customer: dict[str, Order] = {}
    for n in range(9):
        by_customer.update(await found_rows(store, ORDERS, {"customer": f"c{n}"}, order_by="total"))
    assert by_customer == rows


async def test_a_process_killed_between_rows_and_checkpoint_leaves_nothing_that_the_same_events_do_not_mend(
    mongodb_url: str,
) -> None:
    async with opened(mongodb_url) as store:
        await store.prepare([ORDERS])
        await follow(store, 100, 50)
        with follower(mongodb_url, 200, 60, "dies") as process:
            assert process.wait(60) == -signal.SIGKILL
        assert (await progress(store, ORDERS)).position == 100
        assert dict(await found_rows(store, ORDERS)) == fold_of_all(160), "rows are ahead: that is what is tested"
        # The events come again in other batches, which end before the rows that are there, and behind them.
        await follow(store, 130, 30)
        await follow(store, 200, 45)
        await is_fold(store, 200)


@pytest.mark.parametrize(
    "kills", [pytest.param(6, id="6 kills"), pytest.param(100, id="100 kills", marks=pytest.mark.torture)]
)
@pytest.mark.timeout(600)
async def test_processes_killed_at_any_moment_lose_and_double_nothing(mongodb_url: str, kills: int) -> None:
    random = Random(kills)
    async with opened(mongodb_url) as store:
        await store.prepare([ORDERS])
        reached = 0
        for n in range(kills):
            with follower(mongodb_url, 1_000_000, 10 + random.randrange(30), "lives") as process:
                assert process.stdout is not None
                for _ in range(1 + random.randrange(5)):
                    reported = int(process.stdout.readline())
                # In the midst of the next save.
                await asyncio.sleep(random.random() * 0.01)
                process.kill()
            position = (await progress(store, ORDERS)).position
            assert position >= max(reported, reached), n
            # Beyond whatever was written of the save that was under way; with the last request of the dead, the server
            # may not have finished.
            reached = position + 80
            with contextlib.suppress(Conflict):
                await follow(store, reached, 7)
            await follow(store, reached, 7)
            await is_fold(store, reached)


async def test_a_zombie_that_writes_late_changes_nothing_that_can_be_seen(mongodb_url: str) -> None:
    async with opened(mongodb_url) as zombie, opened(mongodb_url) as store:
        await zombie.prepare([ORDERS])
        await follow(zombie, 50, 50, epoch=1)
        late = await change(zombie, 50, 90, epoch=1)
        between, go_on = asyncio.Event(), asyncio.Event()

        async def stopped(*arguments: object) -> None:
            between.set()
            await go_on.wait()
            await write_rows(*arguments)  # type: ignore[arg-type]

        with patch("twofold.read_store.mongodb.saving.write_rows", stopped):
            saving = asyncio.create_task(zombie.save(late))
            await between.wait()
        await store.prepare([ORDERS])
        await follow(store, 150, 20, epoch=2)
        parked = {"p": Parked("p", 151, "no", 1)}
        await store.save(Change(ORDERS, LOG, 150, 150, 0, {}, parked, epoch=2))
        go_on.set()
        with pytest.raises(Conflict, match="'orders' is at 150"):
            await saving
        await is_fold(store, 150)
        with pytest.raises(Conflict):
            await zombie.save(Change(ORDERS, LOG, 150, 151, 0, {}, {"p": None}, epoch=1))
        assert await parked_keys(store, ORDERS) == tuple(parked.values())


async def test_parked_keys_of_a_later_epoch_stay_as_they_are_whatever_an_earlier_one_writes(mongodb_url: str) -> None:
    first, second = Parked("p", 3, "first", 1), Parked("p", 3, "second", 1)
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {}, position=3)
        await store.save(Change(ORDERS, LOG, 3, 4, 0, {}, {"p": first, "q": second}, epoch=1))
        await store.save(Change(ORDERS, LOG, 4, 5, 0, {}, {"p": second, "q": None}, epoch=2))
        # As if it had got past the look at the checkpoint before.
        with patch.object(MongoCheckpoints, "begin_save", _nothing), pytest.raises(Conflict):
            await store.save(Change(ORDERS, LOG, 4, 6, 0, {}, {"p": None, "q": first, "r": None}, epoch=1))
        assert await parked_keys(store, ORDERS) == (second,)
        await store.save(Change(ORDERS, LOG, 5, 5, 0, {}, {"p": None, "q": first}, epoch=2))
        assert [each.error for each in await parked_keys(store, ORDERS)] == ["first"]


async def _nothing(*_: object) -> None:
    return None


async def test_a_late_older_row_does_not_bring_a_deleted_one_to_life(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {"a": Order(total=1), "b": Order(total=1)}, position=3)
        now = 4_000_000_000_000_000
        gone = {"a": VersionedRow(None, 9, 0, (Order(total=1),)), "never": VersionedRow(None, 9)}
        await store.save(Change(ORDERS, LOG, 3, 9, now, gone))
        with patch.object(MongoCheckpoints, "begin_save", _nothing):
            for older in (
                {"a": VersionedRow(Order(total=2), 5)},
                {"a": VersionedRow(Order(total=2), 9, 0, (Order(total=1),))},
            ):
                late = Change(ORDERS, LOG, 3, 5, now, {**older, "never": VersionedRow(Order(), 8)})
                with pytest.raises(Conflict):
                    await store.save(late)
        assert await found_rows(store, ORDERS) == [("b", Order(total=1))]
        assert await store.raw_rows("orders", 1, "", 9) == [
            ("b", RawRow({"customer": "ann", "total": 1, "note": None}, 3))
        ]
        assert await store.load(ORDERS, ["a", "b", "never"]) == {
            "a": VersionedRow(None, 9),
            "b": VersionedRow(Order(total=1), 3),
            "never": VersionedRow(None, 9),
        }
        async with store.snapshot() as snapshot:
            assert await snapshot.get(ORDERS, "a") is None
        # Newer than the deletion, it lives.
        await store.save(Change(ORDERS, LOG, 9, 12, now, {"a": VersionedRow(Order(total=7), 12)}))
        assert await loaded(store, ORDERS, ["a"]) == {"a": Order(total=7)}


async def test_of_racing_saves_of_new_and_known_keys_the_newest_row_stays_each_time(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store, opened(mongodb_url) as other:
        for each in (store, other):
            await each.prepare([ORDERS])
        random = Random(7)
        with patch.object(MongoCheckpoints, "begin_save", _nothing):
            for n in range(60):
                keys = [f"{n}-{k}" for k in range(20)]
                versions = [(random.randrange(3), random.randrange(1, 9)) for _ in range(6)]
                # Equal versions are equal rows. Some pretend that the key was there before, as those who read late do.
                saves = [
                    racer.save(
                        Change(
                            ORDERS,
                            LOG,
                            0,
                            0,
                            0,
                            {
                                key: VersionedRow(Order(total=10 * repair + p), p, repair, (Order(),) if m % 2 else ())
                                for key in keys
                            },
                        )
                    )
                    for m, (repair, p) in enumerate(versions)
                    for racer in ((store, other)[m % 2],)
                ]
                for outcome in await asyncio.gather(*saves, return_exceptions=True):
                    assert outcome is None or isinstance(outcome, Conflict), outcome
                repair, p = max(versions)
                assert await store.load(ORDERS, keys) == {
                    key: VersionedRow(Order(total=10 * repair + p), p, repair) for key in keys
                }


async def test_a_save_whose_answer_is_lost_is_no_conflict(mongodb_url: str, mongodb: ReplicaSet) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {"a": Order()})
        # The server has done it, and says that it may not last: it is asked again, and finds it done.
        lost = {"writeConcernError": {"code": 64, "errmsg": "no majority in time"}}
        fail(mongodb, "findAndModify", **lost)
        await store.save(Change(ORDERS, LOG, 1, 2, 0))
        assert (await progress(store, ORDERS)).position == 2
        for command in ("findAndModify", "insert", "update"):
            position = (await progress(store, ORDERS)).position
            rows = {
                "a": VersionedRow(Order(total=position), position + 1, 0, (Order(),)),
                f"{command}": VersionedRow(Order(), 9),
            }
            fail(mongodb, command, **lost)
            parked = {"p": Parked("p", 1, command, 0)}
            await store.save(Change(ORDERS, LOG, position, position + 1, 0, rows, parked))
            assert (await progress(store, ORDERS)).position == position + 1
            assert (await store.load(ORDERS, ["a"]))["a"].position == position + 1
            assert [each.error for each in await parked_keys(store, ORDERS)] == [command]


@pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 10107}, {"errorCode": 11602}])
@pytest.mark.parametrize("command", ["findAndModify", "insert", "update", "find", "aggregate"])
async def test_what_fails_in_passing_is_tried_again(
    mongodb_url: str, mongodb: ReplicaSet, command: str, how: dict[str, object]
) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {"a": Order()})
        fail(mongodb, command, **how)
        await store.save(
            Change(
                ORDERS,
                LOG,
                1,
                2,
                0,
                {"a": VersionedRow(Order(total=2), 2, 0, (Order(),)), "b": VersionedRow(Order(), 2)},
            )
        )
        assert await loaded(store, ORDERS, ["a", "b"]) == {"a": Order(total=2), "b": Order()}
        assert (await progress(store, ORDERS)).position == 2
        assert [each.progress.position for each in await store.checkpoints()] == [2]


async def test_splits_and_merges_whose_answer_is_lost_are_no_conflict(mongodb_url: str, mongodb: ReplicaSet) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {"a": Order()})
        (whole,) = [each.partition for each in await store.checkpoints()]
        fail(mongodb, "findAndModify", writeConcernError={"code": 64, "errmsg": "no majority in time"})
        await store.repartition(ORDERS, [whole], list(whole.halves()))
        assert [each.partition for each in await store.checkpoints()] == list(whole.halves())


async def test_thousands_of_rows_new_changed_and_deleted_are_one_save(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store:
        rows = {f"k{n}": Order(total=n, note="x" * 500) for n in range(12_000)}
        await keep(store, ORDERS, rows)
        changed = {
            key: VersionedRow(Order(total=-1) if n % 2 else None, 2, 0, (rows[key],)) for n, key in enumerate(rows)
        }
        await store.save(Change(ORDERS, LOG, 1, 2, 0, changed))
        assert await loaded(store, ORDERS, list(rows)) == dict.fromkeys(list(rows)[1::2], Order(total=-1))

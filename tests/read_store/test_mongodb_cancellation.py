"""A call cancelled at any moment leaves no partial response to another call, and loses no connection."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.read_store.mongodb_helpers import database, opened
from twofold.read_store.mongodb import MongoReadStore
from twofold.read_store.partition import WHOLE
from twofold.read_store.port import Change, ReadModel, VersionedRow
from twofold.testing.read_store_rows import LOG, ORDERS, Order, find, keep, keys, progress

Call = Callable[[MongoReadStore, int], Awaitable[object]]

OTHER = ReadModel("other", 1, Order, (), ("total",))


async def get(store: MongoReadStore, key: str) -> Any:
    """One row, in its own snapshot."""
    async with store.snapshot() as snapshot:
        return await snapshot.get(ORDERS, key)


async def split(store: MongoReadStore, turn: int) -> None:
    """Split the other model, and merge it again."""
    halves = WHOLE.halves()
    old, new = (halves, [WHOLE]) if turn % 2 else ([WHOLE], halves)
    await store.repartition(OTHER, old, new)


async def save(store: MongoReadStore, turn: int) -> None:
    """Save at the checkpoint as it is."""
    position = (await progress(store, ORDERS)).position
    rows = {f"late-{turn}": VersionedRow(Order(total=turn), position + 1)}
    await store.save(Change(ORDERS, LOG, position, position + 1, 0, rows))


CALLS: dict[str, Call] = {
    "load": lambda store, k: store.load(ORDERS, ["k0", "k1"]),
    "save": save,
    "get": lambda store, k: get(store, "k0"),
    "find": lambda store, k: find(store, ORDERS, {"customer": "c3"}, order_by="total"),
    "progress": lambda store, k: progress(store, ORDERS),
    "checkpoints": lambda store, k: store.checkpoints(),
    "raw_rows": lambda store, k: store.raw_rows("orders", 1, "", 3),
    "inspect": lambda store, k: store.inspect(ORDERS, ["a", "b"]),
    "prepare": lambda store, k: store.prepare([OTHER]),
    "repartition": split,
    "drop": lambda store, k: store.drop("nothing", 1),
}

# Turns of the loop: each of the first ones, in which everything is set going; then ever more, for slow machines.
MOMENTS = [*range(30), *(30 * 2**n for n in range(16))]


async def cancelled_after(turns: int, work: Awaitable[object]) -> bool:
    """Cancel it after so many turns of the loop; whether that was before its end."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def answers_are_right(store: MongoReadStore) -> None:
    """Read different things at once: each call returns its own result."""
    rows = await asyncio.gather(*(get(store, f"k{n}") for n in range(12)))
    assert rows == [Order(f"c{n % 4}", n) for n in range(12)]
    found = await asyncio.gather(*(keys(store, ORDERS, {"customer": f"c{n}"}, order_by="total") for n in range(4)))
    assert [each[:3] for each in found] == [[f"k{n}", f"k{n + 4}", f"k{n + 8}"] for n in range(4)]


async def connections(url: str) -> int:
    """How many connections the server has."""
    async with database(url) as found:
        return int((await found.client.admin.command("serverStatus"))["connections"]["current"])


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_given_up_at_any_moment_leaves_nothing_behind(mongodb_url: str, name: str) -> None:
    async with opened(f"{mongodb_url}&maxPoolSize=6") as store:
        await store.prepare([OTHER])
        await keep(store, ORDERS, {f"k{n}": Order(f"c{n % 4}", n) for n in range(12)})
        await answers_are_right(store)
        before = await connections(mongodb_url)
        given_up = 0
        for turn, moment in enumerate(MOMENTS):
            beside = [asyncio.create_task(get(store, f"k{n}")) for n in range(3)]
            was_cancelled = await cancelled_after(moment, CALLS[name](store, turn))
            assert await asyncio.gather(*beside) == [Order(f"c{n % 4}", n) for n in range(3)]
            # What was given up goes on to its end.
            await settled(store)
            await answers_are_right(store)
            if not was_cancelled:
                break
            given_up += 1
        assert 1 < given_up < len(MOMENTS)
        assert await connections(mongodb_url) <= before + 6, "as many as the pool has, and not one for each call"
        assert created(store) <= 6, "none was thrown away"
        if name == "save":
            # Each was done whole, or never begun: some that were given up have been done.
            late = [key for key, _ in await store.raw_rows("orders", 1, "late-", 99)]
            assert (await progress(store, ORDERS)).position == 1 + len(late)
            assert len(late) > 1
        if name == "repartition":
            parts = {each.partition for each in await store.checkpoints() if each.name == "other"}
            assert parts in ({WHOLE}, set(WHOLE.halves()))


async def settled(store: MongoReadStore) -> None:
    """Wait until no cancelled call is under way."""
    await store.tasks.wait()


def created(store: MongoReadStore) -> int:
    """How many connections the pool has ever made, by their numbers."""
    (server,) = store._connection._client._topology._servers.values()
    return int(server.pool.next_connection_id) - 1


async def test_a_session_is_given_back_when_its_last_answer_has_come_though_its_user_has_gone(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {"a": Order(total=1)})
        for moment in range(30):
            await cancelled_after(moment, get(store, "a"))
        await settled(store)
        sessions = store._connection._client._topology._session_pool
        assert 0 < len(sessions) <= 30
        assert await get(store, "a") == Order(total=1)


async def test_close_given_up_at_any_moment_still_ends_everything(mongodb_url: str) -> None:
    before = await connections(mongodb_url)
    for moment in MOMENTS[1:]:
        store = await MongoReadStore.open(mongodb_url)
        await keep(store, ORDERS, {"a": Order()}, before=(await position(mongodb_url)))
        saving = asyncio.create_task(save(store, moment))
        await asyncio.sleep(0)
        was_cancelled = await cancelled_after(moment, store.close())
        await asyncio.gather(saving, return_exceptions=True)
        async with asyncio.timeout(10):
            while await connections(mongodb_url) > before:
                continue
        if not was_cancelled:
            return
    raise AssertionError("never closed")


async def position(url: str) -> int:
    """The checkpoint of the model."""
    async with opened(url) as store:
        return max((each.progress.position for each in await store.checkpoints()), default=0)


# The driver may leave the socket of an interrupted call to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.usefixtures("unclosed_collected")
async def test_native_reads_that_are_given_up_spoil_nothing(mongodb_url: str) -> None:
    async with opened(mongodb_url) as store:
        await keep(store, ORDERS, {f"k{n}": Order(f"c{n % 4}", n) for n in range(12)})

        async def natively(n: int) -> Any:
            async with store.snapshot() as snapshot:
                native = snapshot.native(ORDERS)
                return await native.client[native.table].find_one({"_id": f"k{n}"}, session=native.session)

        for moment in range(30):
            beside = [asyncio.create_task(natively(n)) for n in range(4)]
            await cancelled_after(moment, natively(9))
            assert [each["row"]["total"] for each in await asyncio.gather(*beside)] == [0, 1, 2, 3]
        await answers_are_right(store)

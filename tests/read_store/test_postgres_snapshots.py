"""A snapshot is one moment on a connection of its own, which comes back in order whatever its user does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from unittest.mock import patch

import asyncpg
import pytest

from tests.patience import giving_up_after
from tests.read_store.postgres_follower import step, whole_at
from tests.servers.postgres import Postgres, fresh_schema
from tests.servers.proxy import Proxy
from tests.servers.server import wait_until
from twofold.errors import Unavailable
from twofold.read_store.port import Snapshot
from twofold.read_store.postgres import PostgresReadStore
from twofold.testing.read_store_rows import ORDERS, Order, keep, keys, progress

# Turns of the loop: each of the first ones, in which everything is set going; then ever more, for slow machines.
MOMENTS = [*range(30), *(30 * 2**n for n in range(14))]

ROWS = {f"k{n}": Order("ann" if n % 2 else "bob", n) for n in range(20)}


@pytest.fixture
def url(postgres: Postgres) -> str:
    return f"{postgres.dsn}?schema={fresh_schema()}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresReadStore]:
    store = await PostgresReadStore.open(url, snapshots=3)
    await keep(store, ORDERS, ROWS)
    yield store
    await store.close()


def idle_in_transaction(server: Postgres, store: PostgresReadStore) -> int:
    """Transactions that are open in this store's snapshots; what they asked last tells whose they are."""
    pids = (
        ", ".join(str(each.get_server_pid()) for each in store._server.snapshots._idle if not each.is_closed()) or "0"
    )
    asked = f"select count(*) from pg_stat_activity where state like 'idle in%' and pid in ({pids})"
    return int(server.sql(asked))


async def answers_are_right(store: PostgresReadStore) -> None:
    """Ask for different things at once: each answer is the one to its own question."""

    async def ask(n: int) -> None:
        async with store.snapshot() as snapshot:
            assert await snapshot.get(ORDERS, f"k{n}") == ROWS[f"k{n}"]
            assert (await snapshot.progress(ORDERS)).position >= 1

    await asyncio.gather(*(ask(n) for n in range(20)))


CALLS: dict[str, Callable[[Snapshot], Awaitable[object]]] = {
    "get": lambda snapshot: snapshot.get(ORDERS, "k1"),
    "find": lambda snapshot: snapshot.find(ORDERS, {"customer": "ann"}, limit=5),
    "progress": lambda snapshot: snapshot.progress(ORDERS),
    "native": lambda snapshot: snapshot.native(ORDERS).client.fetch("select pg_sleep(0.01)"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_who_is_cancelled_at_any_moment_leaves_no_transaction_open_and_no_answer_behind(
    postgres: Postgres, store: PostgresReadStore, name: str
) -> None:
    async def look() -> None:
        async with store.snapshot() as snapshot:
            await CALLS[name](snapshot)

    given_up = 0
    for k in MOMENTS:
        task = asyncio.create_task(look())
        for _ in range(k):
            await asyncio.sleep(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        await answers_are_right(store)
        if outcome is None:
            break
        assert isinstance(outcome, asyncio.CancelledError)
        given_up += 1
    assert 1 < given_up < len(MOMENTS)
    await asyncio.wait_for(store.tasks.wait(), 60)
    assert len(store._server.snapshots._idle) <= 3
    assert idle_in_transaction(postgres, store) == 0


async def test_a_follower_that_is_cancelled_has_saved_all_or_nothing_and_leaves_no_answer_behind(url: str) -> None:
    store = await PostgresReadStore.open(url)
    await store.prepare([ORDERS])
    given_up = 0
    for k in MOMENTS:
        before = (await progress(store, ORDERS)).position
        task = asyncio.create_task(store.save(step(before)))
        for _ in range(k):
            await asyncio.sleep(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        await asyncio.wait_for(store.tasks.wait(), 60)
        assert await whole_at(store) in (before, before + 1)
        if outcome is None:
            break
        given_up += 1
    assert 1 < given_up < len(MOMENTS)
    assert store._server.followers.opened == 1
    await store.close()


async def test_snapshots_beyond_the_cap_wait_until_one_is_given_back(store: PostgresReadStore) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(store.snapshot())
        waiting = [asyncio.create_task(keys(store, ORDERS, {"customer": "bob"})) for _ in range(5)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
    assert await asyncio.gather(*waiting) == [sorted(f"k{n}" for n in range(0, 20, 2))] * 5
    assert store._server.snapshots.opened == 3


async def test_who_has_waited_for_too_long_is_told_what_for(url: str) -> None:
    store = await PostgresReadStore.open(url, snapshots=1, patience=60.0)
    await keep(store, ORDERS, ROWS)
    async with store.snapshot() as snapshot:
        with giving_up_after(0.2, store), pytest.raises(Unavailable, match="all connections have been busy"):
            await keys(store, ORDERS)
        assert await snapshot.get(ORDERS, "k1") == ROWS["k1"]
    assert len(await keys(store, ORDERS)) == 20
    await store.close()


async def test_a_snapshot_that_is_held_for_too_long_is_ended_and_its_user_told(url: str, postgres: Postgres) -> None:
    store = await PostgresReadStore.open(url, snapshots=1, longest=30.0)
    await keep(store, ORDERS, ROWS)
    async with store.snapshot() as snapshot:
        assert await snapshot.get(ORDERS, "k1") == ROWS["k1"]
        # If this process stalls, the server ends the transaction.
        client = snapshot.native(ORDERS).client
        assert await client.fetchval("show idle_in_transaction_session_timeout") == "30s"
    with patch.object(store._server, "longest", 0.1):
        async with store.snapshot() as snapshot:
            # The server may have ended it even earlier.
            await asyncio.to_thread(wait_until, lambda: snapshot._late, "the snapshot to be ended")
            assert snapshot.native(ORDERS).client.is_closed()
            with pytest.raises(Unavailable, match=r"open for longer than 0\.1 s"):
                await snapshot.get(ORDERS, "k1")
    assert len(await keys(store, ORDERS)) == 20
    await store.close()


async def test_many_questions_at_once_in_one_snapshot_are_asked_one_after_the_other(store: PostgresReadStore) -> None:
    async with store.snapshot() as snapshot:
        rows = await asyncio.gather(*(snapshot.get(ORDERS, key) for key in ROWS))
    assert rows == list(ROWS.values())


async def test_the_native_connection_reads_the_same_moment_and_cannot_write(store: PostgresReadStore) -> None:
    async with store.snapshot() as snapshot:
        native = snapshot.native(ORDERS)
        await keep(store, ORDERS, {"later": Order()}, before=1)
        asked = f"select count(*), sum(\"total:bigint\") filter (where row->>'customer' = 'ann') from {native.table}"
        assert tuple(await native.client.fetchrow(asked)) == (20, sum(range(1, 20, 2)))
        assert len((await snapshot.find(ORDERS, {}, limit=99)).rows) == 20
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await native.client.execute(f"delete from {native.table}")
    assert len(await keys(store, ORDERS)) == 21


@pytest.mark.parametrize(
    "harm",
    [
        "select 1 / 0",
        "commit; begin; select 1",
        "commit; set enable_indexscan = off",
        "select pg_advisory_lock(123456)",
        "select pg_sleep(60)",
    ],
)
@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_done_over_the_native_connection_does_not_outlive_the_snapshot(
    url: str, postgres: Postgres, harm: str, fails: bool
) -> None:
    store = await PostgresReadStore.open(url, snapshots=1)
    await keep(store, ORDERS, ROWS)

    async def harmful() -> None:
        async with store.snapshot() as snapshot:
            with contextlib.suppress(asyncpg.PostgresError, TimeoutError):
                await snapshot.native(ORDERS).client.execute(harm, timeout=0.2)
            if fails:
                raise LookupError

    await asyncio.gather(harmful(), return_exceptions=True)
    async with store.snapshot() as snapshot:
        client = snapshot.native(ORDERS).client
        assert await client.fetchval("show enable_indexscan") == "on"
        assert await client.fetchval("show transaction_isolation") == "repeatable read"
        assert await client.fetchval("select count(*) from pg_locks where objid = 123456") == 0
        assert await snapshot.get(ORDERS, "k1") == ROWS["k1"]
    await store.close()


async def test_a_native_question_that_is_still_asked_when_the_snapshot_ends_costs_its_connection_only(
    url: str, store: PostgresReadStore
) -> None:
    async with store.snapshot() as snapshot:
        client = snapshot.native(ORDERS).client
        asking = asyncio.create_task(client.fetchval("select pg_sleep(60)"))
        await asyncio.sleep(0)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await asyncio.wait_for(asking, 30)
    assert client.is_closed()
    await answers_are_right(store)


async def test_a_snapshot_whose_connection_breaks_is_unavailable_and_the_next_one_is_not(
    postgres: Postgres, url: str, store: PostgresReadStore
) -> None:
    async with Proxy(postgres.port) as proxy:
        through = await PostgresReadStore.open(url.replace(postgres.dsn, proxy.dsn_of(postgres)), snapshots=1)
        await through.prepare([ORDERS])
        for _ in range(3):
            async with through.snapshot() as snapshot:
                assert await snapshot.get(ORDERS, "k1") == ROWS["k1"]
                proxy.cut_all()
                with pytest.raises(Unavailable, match="cannot be reached"):
                    await snapshot.get(ORDERS, "k1")
            # Those that break while nobody uses them are not noticed.
            assert len(await keys(through, ORDERS)) == 20
            proxy.cut_all()
        await through.close()


async def test_a_server_that_says_nothing_is_given_up_after_the_patience(
    postgres: Postgres, url: str, store: PostgresReadStore
) -> None:
    async with Proxy(postgres.port) as proxy:
        through = await PostgresReadStore.open(
            url.replace(postgres.dsn, proxy.dsn_of(postgres)), snapshots=1, patience=60.0
        )
        await through.prepare([ORDERS])
        async with through.snapshot() as snapshot:
            proxy.stall()
            with giving_up_after(0.3, through), pytest.raises(Unavailable, match="cannot be reached"):
                await asyncio.wait_for(snapshot.get(ORDERS, "k1"), 30)
        for asked in (lambda: keys(through, ORDERS), lambda: through.load(ORDERS, ["k1"]), through.checkpoints):
            with giving_up_after(0.3, through), pytest.raises(Unavailable):
                await asyncio.wait_for(asked(), 30)
        proxy.resume()
        assert len(await keys(through, ORDERS)) == 20
        await through.close()


async def test_a_snapshot_outlives_the_closing_of_its_store_and_leaves_no_connection(
    postgres: Postgres, store: PostgresReadStore
) -> None:
    async with store.snapshot() as snapshot:
        pid = snapshot.native(ORDERS).client.get_server_pid()
        await store.close()
        assert await snapshot.get(ORDERS, "k1") == ROWS["k1"]
        for refused in (lambda: store.load(ORDERS, ["a"]), lambda: keys(store, ORDERS), store.checkpoints):
            with pytest.raises(Unavailable, match="closed"):
                await refused()
    there = f"select count(*) from pg_stat_activity where pid = {pid}"
    await asyncio.to_thread(wait_until, lambda: postgres.sql(there) == "0", "the connection to end")

"""Whoever gives up waiting, at whatever moment, leaves no connection behind and no answer for somebody else."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from tests.patience import giving_up_after
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold import Metadata
from twofold.domain.event_query import ALL_EVENTS, AppendCondition, EventQuery, QueryItem
from twofold.domain.events import NewEvent
from twofold.errors import Unavailable
from twofold.write_store.port import Append, Appended, RowWrite
from twofold.write_store.postgres import PostgresWriteStore

Call = Callable[[PostgresWriteStore, int], Awaitable[object]]


def noted(n: int) -> Append:
    event = NewEvent(f"c-{n}.0", "noted", 1, (f"k:{n}",), str(n).encode())
    return Append(Metadata(0, f"c-{n}", f"c-{n}"), (event,), (), f"c-{n}", rows=(RowWrite("s", f"{n}", b"v", 0),))


def of(n: int) -> EventQuery:
    return EventQuery((QueryItem(("noted",), (f"k:{n}",)),))


CALLS: dict[str, Call] = {
    "append": lambda store, k: store.append([noted(1_000 + k)]),
    "read": lambda store, k: store.read(ALL_EVENTS),
    "newer": lambda store, k: store.newer([AppendCondition(ALL_EVENTS, 0)], "c-1"),
    "rows": lambda store, k: store.rows("s"),
    "wait": lambda store, k: store.wait(10**9, 0.001),
    "retag": lambda store, k: store.retag({1: [f"new:{k}"]}),
}


# Turns of the loop: each of the first ones, in which everything is set going; then ever more, for slow machines.
MOMENTS = [*range(40), *(40 * 2**n for n in range(16))]


async def cancelled_after(turns: int, work: Awaitable[object]) -> bool:
    """Whether it was cancelled before its end, after so many turns of the loop."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


async def connections(server: Postgres, schema: str) -> int:
    """Server connections that have last asked something of this log."""
    other = await asyncpg.connect(server.dsn)
    found = await other.fetchval(
        "select count(*) from pg_stat_activity where query like $1 and pid <> pg_backend_pid()", f"%{schema}%"
    )
    await other.close()
    return int(found)


async def answers_are_right(store: PostgresWriteStore, numbers: range) -> None:
    """Ask for different things at once: each answer is the one to its own question."""
    found = await asyncio.gather(*(store.read(of(n)) for n in numbers))
    for n, page in zip(numbers, found, strict=True):
        assert [event.payload for event in page.events] == [str(n).encode()]


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_given_up_at_any_moment_leaves_no_connection_and_no_answer_behind(
    postgres: Postgres, name: str
) -> None:
    url = await fresh_log(postgres.dsn)
    store = await PostgresWriteStore.open(url)
    await store.append([noted(n) for n in range(8)])
    given_up: set[int] = set()
    for k in MOMENTS:
        beside = [asyncio.create_task(store.append([noted(100 + k)])), asyncio.create_task(store.read(of(k % 8)))]
        was_cancelled = await cancelled_after(k, CALLS[name](store, k))
        (outcome,) = await beside[0]
        assert isinstance(outcome, Appended), outcome
        assert [event.payload for event in (await beside[1]).events] == [str(k % 8).encode()]
        await answers_are_right(store, range(8))
        assert len(store._reading._idle) <= 4
        assert len(store._writing._idle) <= 1
        if not was_cancelled:
            break
        given_up.add(k)
    assert 1 < len(given_up) < len(MOMENTS)
    if name == "append":
        # What was given up goes on to its end.
        await asyncio.gather(*store._tasks._tasks)
        rows = await store.rows("s")
        assert {f"{1_000 + k}" for k in given_up - {0}} <= rows.keys()
    assert store._reading.opened + store._writing.opened <= 5
    await store.close()
    schema = url.rpartition("=")[2]
    async with asyncio.timeout(30):
        while await connections(postgres, schema):
            continue


async def test_close_given_up_at_any_moment_still_closes_everything(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    for k in MOMENTS[1:]:
        store = await PostgresWriteStore.open(url)
        await store.append([noted(1)])
        appending = asyncio.create_task(store.append([noted(2)]))
        await asyncio.sleep(0)
        was_cancelled = await cancelled_after(k, store.close())
        assert isinstance((await appending)[0], Appended)
        async with asyncio.timeout(30):
            while await connections(postgres_newest, url.rpartition("=")[2]):
                continue
        if not was_cancelled:
            return
    raise AssertionError("never closed")


async def test_two_hundred_readers_share_four_connections_and_each_gets_his_answer(postgres: Postgres) -> None:
    store = await PostgresWriteStore.open(await fresh_log(postgres.dsn))
    await store.append([noted(n) for n in range(200)])
    await answers_are_right(store, range(200))
    assert store._reading.opened <= 4
    await store.close()


async def test_connections_killed_while_idle_are_not_noticed_by_callers(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    store = await PostgresWriteStore.open(url)
    await store.append([noted(n) for n in range(4)])
    await answers_are_right(store, range(4))
    for connection in [*store._reading._idle, *store._writing._idle]:
        postgres.sql(f"select pg_terminate_backend({connection.get_server_pid()})")
    await answers_are_right(store, range(4))
    assert await store.append([noted(9)]) == [Appended(5, 1)]
    await store.close()


async def test_a_lock_held_for_long_ends_in_unavailable_and_once_it_is_free_all_goes_on(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    schema = url.rpartition("=")[2]
    store = await PostgresWriteStore.open(url, patience=60.0)
    await store.append([noted(0)])
    holder = await asyncpg.connect(postgres.dsn)
    held = holder.transaction()
    await held.start()
    await holder.execute(f"select from {schema}.log_head for update")
    with giving_up_after(0.5, store), pytest.raises(Unavailable, match="cannot be reached"):
        await asyncio.wait_for(store.append([noted(1)]), 30)
    assert len((await store.read(ALL_EVENTS)).events) == 1, "reading needs no lock"
    await held.rollback()
    (outcome,) = await store.append([noted(1)])
    assert isinstance(outcome, Appended)
    assert (outcome.position, outcome.count) == (2, 1)
    assert [event.id for event in (await store.read(ALL_EVENTS)).events] == ["c-0.0", "c-1.0"]
    await holder.close()
    await store.close()

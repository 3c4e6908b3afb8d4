"""A node that reserves the log decides while nobody else writes, in the order of asking, and not for long."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.proxy import At, Proxy
from tests.write_store.postgres_helpers import broken_log, fresh_log
from tests.write_store.test_postgres_cancellation import MOMENTS, cancelled_after
from twofold import Metadata
from twofold.domain.event_query import ALL_EVENTS, AppendCondition, EventQuery, QueryItem
from twofold.domain.events import NewEvent
from twofold.errors import Conflict, Unavailable
from twofold.write_store.port import Append, Appended, Slice
from twofold.write_store.postgres import PostgresWriteStore

TAKEN = EventQuery((QueryItem(("taken",), ("thing:1",)),))
_WAITING = "select count(*) from pg_locks where not granted"
_HOLDERS = "select pid from pg_locks where locktype = 'advisory' and granted and classid = 1416589126"


def take(name: str, upto: int) -> Append:
    """Decided on all of the thing's events up to a position."""
    event = NewEvent(f"{name}.0", "taken", 1, ("thing:1",), b"{}")
    return Append(Metadata(0, name, name), (event,), (AppendCondition(TAKEN, upto),), name, b"take")


async def reserved(store: PostgresWriteStore, name: str, *, upto: int = 0) -> object:
    """Reserve the log, and take the thing on what is there then."""

    async def decide(page: Slice | None) -> Sequence[Append]:
        assert page is not None
        return [take(name, page.upto)]

    return (await store.append_reserved([AppendCondition(TAKEN, upto)], decide))[0]


class Held:
    """A reservation that is held until `go` is set; then it takes the thing on what it has read."""

    def __init__(self, store: PostgresWriteStore, name: str) -> None:
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.page: Slice | None = None
        self._name = name
        self.task = asyncio.create_task(store.append_reserved([AppendCondition(TAKEN, 0)], self._decide))

    async def _decide(self, page: Slice | None) -> Sequence[Append]:
        self.page = page
        self.began.set()
        await self.go.wait()
        assert page is not None
        return [take(self._name, page.upto)]

    async def outcome(self) -> object:
        self.go.set()
        return (await self.task)[0]


@asynccontextmanager
async def nodes(url: str, count: int) -> AsyncGenerator[list[PostgresWriteStore]]:
    """Nodes that know all types."""
    async with AsyncExitStack() as stack:
        opened: list[PostgresWriteStore] = []
        for n in range(count):
            store = await PostgresWriteStore.open(url, patience=60.0)
            stack.push_async_callback(store.close)
            opened.append(store)
            await store.append([take(f"first-{n}", n)])
        yield opened


async def until_waiting(watch: asyncpg.Connection, count: int) -> None:
    """Return when so many sessions wait for a lock."""
    while await watch.fetchval(_WAITING) < count:
        await watch.fetchval("select pg_sleep(0.005)")


async def test_nodes_get_the_log_in_the_order_in_which_they_ask(postgres: Postgres) -> None:
    asked = [f"w{n}" for n in range(5)]
    async with nodes(await fresh_log(postgres.dsn), 6) as (holder, *others):
        watch = await asyncpg.connect(postgres.dsn)
        held = Held(holder, "holder")
        await held.began.wait()
        waiting: list[asyncio.Task[object]] = []
        for n, store in enumerate(others):
            waiting.append(asyncio.create_task(reserved(store, asked[n])))
            await until_waiting(watch, n + 1)
        assert isinstance(await held.outcome(), Appended)
        await asyncio.gather(*waiting)
        await watch.close()
        events = (await holder.read(ALL_EVENTS)).events
    assert [event.metadata.command_id for event in events[7:]] == asked


async def test_nobody_appends_between_the_read_and_the_commit_of_a_reservation(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    async with nodes(url, 2) as (first, second):
        watch = await asyncpg.connect(postgres_newest.dsn)
        held = Held(first, "held")
        await held.began.wait()
        assert held.page is not None
        assert [event.metadata.command_id for event in held.page.events] == ["first-0", "first-1"]
        other = asyncio.create_task(second.append([take("other", 2)]))
        await until_waiting(watch, 1)
        assert await held.outcome() == Appended(3, 1)
        assert isinstance((await other)[0], Conflict)
        await watch.close()


async def test_what_the_holder_before_has_written_is_read(postgres: Postgres) -> None:
    async with nodes(await fresh_log(postgres.dsn), 4) as stores:
        outcomes = await asyncio.gather(*(reserved(store, f"{n}-{id(store)}") for n in range(10) for store in stores))
        assert all(isinstance(outcome, Appended) for outcome in outcomes)


async def test_a_read_before_the_lock_would_be_noticed(postgres_newest: Postgres) -> None:
    lock = "    perform from log_head for update;\n    return query"
    url = await broken_log(
        postgres_newest.dsn,
        ("pg_advisory_xact_lock(1416589126, ", "greatest(0, "),
        (lock, "    perform pg_sleep(0.01);\n    return query"),
    )
    async with nodes(url, 4) as stores:
        outcomes = await asyncio.gather(*(reserved(store, f"{n}-{id(store)}") for n in range(10) for store in stores))
        assert any(isinstance(outcome, Conflict) for outcome in outcomes)


async def test_a_holder_whose_connection_is_killed_lets_the_next_one_in_and_writes_once(
    postgres_newest: Postgres,
) -> None:
    async with nodes(await fresh_log(postgres_newest.dsn), 2) as (first, second):
        watch = await asyncpg.connect(postgres_newest.dsn)
        held = Held(first, "held")
        await held.began.wait()
        await watch.fetchval("select pg_terminate_backend($1)", await watch.fetchval(_HOLDERS))
        assert isinstance(await reserved(second, "other"), Appended)
        # What it had decided is older now: its conditions are checked as always.
        assert isinstance(await held.outcome(), Conflict)
        assert isinstance(await reserved(first, "again"), Appended)
        await watch.close()


async def test_a_holder_that_is_silent_loses_the_log_after_a_second(postgres: Postgres) -> None:
    async with nodes(await fresh_log(postgres.dsn), 2) as (first, second):
        held = Held(first, "held")
        await held.began.wait()
        # `held` goes on only after this: it would wait for ever if nothing ended the reservation.
        assert isinstance(await reserved(second, "other"), Appended)
        assert isinstance(await held.outcome(), Conflict)


async def test_a_decision_that_fails_gives_the_log_back(postgres_newest: Postgres) -> None:
    async with nodes(await fresh_log(postgres_newest.dsn), 2) as (first, second):

        async def fails(page: Slice | None) -> Sequence[Append]:
            raise Unavailable("This decision cannot be made.")

        async def decides_nothing(page: Slice | None) -> Sequence[Append]:
            return []

        with pytest.raises(Unavailable, match="cannot be made"):
            await first.append_reserved([AppendCondition(TAKEN, 0)], fails)
        assert await first.append_reserved([AppendCondition(TAKEN, 0)], decides_nothing) == []
        assert (await second.append([take("other", 2)]))[0] == Appended(3, 1)


async def test_a_type_that_is_new_is_written_all_the_same(postgres: Postgres) -> None:
    async with nodes(await fresh_log(postgres.dsn), 1) as (store,):

        async def decide(page: Slice | None) -> Sequence[Append]:
            return [Append(Metadata(0, "n", "n"), (NewEvent("n.0", "new", 1, (), b"{}"),), (), "n")]

        assert await store.append_reserved([AppendCondition(TAKEN, 0)], decide) == [Appended(2, 1)]
        other = await PostgresWriteStore.open(await _url_of(store))
        assert [event.type for event in (await other.read(ALL_EVENTS)).events] == ["taken", "new"]
        await other.close()


async def _url_of(store: PostgresWriteStore) -> str:
    return f"{store._address.dsn}?schema={store._address.schema}"


@pytest.mark.parametrize("matching", [b".append(", b".reserve(", b"commit"])
@pytest.mark.parametrize("at", At)
async def test_wherever_the_connection_breaks_what_was_decided_is_written_once(
    postgres_newest: Postgres, at: At, matching: bytes
) -> None:
    async with Proxy(postgres_newest.port) as proxy:
        direct = await fresh_log(postgres_newest.dsn)
        async with nodes(direct.replace(postgres_newest.dsn, proxy.dsn_of(postgres_newest)), 1) as (store,):
            made = proxy.cut(at, matching=matching, times=1)
            assert await reserved(store, "cut") == Appended(2, 1)
            assert made.made == 1
            assert [event.metadata.command_id for event in (await store.read(ALL_EVENTS)).events] == ["first-0", "cut"]


async def test_an_epoch_that_another_node_began_is_joined_before_anything_is_decided(postgres: Postgres) -> None:
    async with nodes(await fresh_log(postgres.dsn), 2) as (first, second):
        await second.begin_epoch("a test")
        assert await reserved(first, "then") == Appended(3, 1)
        assert first.identity.epoch == second.identity.epoch == 2


async def test_a_caller_who_gives_up_at_any_moment_leaves_no_reservation_behind(postgres_newest: Postgres) -> None:
    async with nodes(await fresh_log(postgres_newest.dsn), 2) as (first, second):
        cancelled = 0
        for turns in MOMENTS:
            if not await cancelled_after(turns, reserved(first, f"c-{turns}")):
                break
            cancelled += 1
        assert cancelled > 5
        # This waits for what is still under way, and for nothing else.
        assert isinstance(await reserved(second, "last"), Appended)
        assert len((await first.read(TAKEN)).events) >= cancelled


async def test_behind_pgbouncer_the_transaction_is_one_and_the_lock_is_given_back(
    pgbouncer_here: None, postgres_newest: Postgres
) -> None:
    direct = await fresh_log(postgres_newest.dsn)
    with PgBouncer(postgres_newest.dsn, size=2) as bouncer:
        url = f"{direct.replace(postgres_newest.dsn, bouncer.dsn)}&pgbouncer=true"
        async with nodes(url, 4) as stores:
            outcomes = await asyncio.gather(
                *(reserved(store, f"{n}-{id(store)}") for n in range(5) for store in stores)
            )
            assert all(isinstance(outcome, Appended) for outcome in outcomes)
        watch = await asyncpg.connect(postgres_newest.dsn)
        assert await watch.fetch(_HOLDERS) == []
        await watch.close()

"""Rows, parked keys and checkpoint are saved together or not at all, once, and by one follower at a time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random

import asyncpg
import msgspec
import pytest

from tests.patience import giving_up_after
from tests.read_store.postgres_follower import step, whole_at
from tests.servers.postgres import Postgres, fresh_schema
from tests.servers.proxy import At, Proxy
from tests.servers.server import wait_until
from twofold.errors import Conflict, Unavailable
from twofold.read_store.partition import WHOLE, Partition, shares
from twofold.read_store.port import Change, Checkpoint, ReadModel, VersionedRow
from twofold.read_store.postgres import PostgresReadStore
from twofold.testing.read_store_rows import LOG, ORDERS, Order, at, found_rows, keys, loaded, parked_keys, progress
from twofold.world import RealWorld

SAVING = b"with moved as"
SHARED = msgspec.structs.replace(ORDERS, partitions=3)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return f"{postgres.dsn}?schema={fresh_schema()}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresReadStore]:
    store = await PostgresReadStore.open(url)
    await store.prepare([ORDERS])
    yield store
    await store.close()


def behind(proxy: Proxy, server: Postgres, url: str) -> str:
    return url.replace(server.dsn, proxy.dsn_of(server))


# --------------------------------------------------------------------------------------------- a connection that breaks


@pytest.mark.parametrize("place", At)
async def test_a_save_whose_connection_breaks_is_carried_out_once(
    postgres: Postgres, url: str, store: PostgresReadStore, place: At
) -> None:
    async with Proxy(postgres.port) as proxy:
        through = await PostgresReadStore.open(behind(proxy, postgres, url))
        await through.prepare([ORDERS])
        for n in range(5):
            made = proxy.cut(place, matching=SAVING, times=1 + n % 2)
            await through.save(step(n))
            assert made.made == 1 + n % 2
            assert await whole_at(store) == n + 1
        await through.close()


@pytest.mark.parametrize("place", At)
async def test_a_save_that_moves_to_another_log_or_stays_where_it_is_may_break_too(
    postgres: Postgres, url: str, store: PostgresReadStore, place: At
) -> None:
    async with Proxy(postgres.port) as proxy:
        through = await PostgresReadStore.open(behind(proxy, postgres, url))
        await through.prepare([ORDERS])
        for change in (
            Change(ORDERS, LOG, 0, 4, 1, at(4, {"a": Order(), "b": Order()})),
            Change(
                ORDERS, LOG, 4, 4, 2, {"a": VersionedRow(Order(total=2), 4, 1), "b": VersionedRow(None, 4, 1)}, epoch=3
            ),
            Change(ORDERS, "log-b", 4, 4, 2, epoch=3, previous_stamp=LOG),
            Change(ORDERS, "log-c\0", 4, 5, 2, at(5, {"c": Order()}), epoch=3, previous_stamp="log-b"),
        ):
            made = proxy.cut(place, matching=SAVING)
            await through.save(change)
            assert made.made == 1
            (reached,) = await store.checkpoints()
            assert (reached.progress.position, reached.progress.stamp) == (change.position, change.stamp)
        assert await found_rows(store, ORDERS) == [("a", Order(total=2)), ("c", Order())]
        await through.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cuts", [60, pytest.param(3_000, marks=pytest.mark.torture)])
async def test_wherever_connections_break_followers_move_their_partitions_on_step_by_step(
    postgres_newest: Postgres, cuts: int
) -> None:
    url = f"{postgres_newest.dsn}?schema={fresh_schema()}"
    direct = await PostgresReadStore.open(url)
    await direct.prepare([SHARED])
    async with Proxy(postgres_newest.port) as proxy:
        nodes = [await PostgresReadStore.open(behind(proxy, postgres_newest, url), patience=30.0) for _ in range(3)]
        made = proxy.cut(*At, matching=SAVING, times=cuts, probability=0.4, seed=cuts)

        async def follow(node: PostgresReadStore, partition: Partition) -> int:
            await node.prepare([SHARED])
            position = 0
            while made.made < cuts:
                await node.save(step(position, partition=partition, model=SHARED))
                position += 1
            return position

        reached = await asyncio.gather(*(follow(*each) for each in zip(nodes, shares(3), strict=True)))
        assert [await whole_at(direct, partition=each, model=SHARED) for each in shares(3)] == reached
        assert sum(reached) > cuts / 3
        for node in nodes:
            await node.close()
    await direct.close()


async def test_whoever_cannot_learn_the_outcome_is_told_so_and_finds_it_whole(
    postgres: Postgres, url: str, store: PostgresReadStore
) -> None:
    async with Proxy(postgres.port) as proxy:
        through = await PostgresReadStore.open(behind(proxy, postgres, url), patience=60.0)
        await through.prepare([ORDERS])
        proxy.cut(At.ANSWER, matching=SAVING, times=None)
        with giving_up_after(0.3, through), pytest.raises(Unavailable, match="cannot be reached"):
            await through.save(step(0))
        assert await whole_at(store) == 1
        proxy.cut_nothing()
        with pytest.raises(Conflict, match="'orders' is at 1"):
            await through.save(step(0, epoch=7))
        await through.save(step(1))
        assert await whole_at(store) == 2
        await through.close()


class Meddler(RealWorld):
    """A world in which something happens while we wait to try again."""

    def __init__(self, happens: Callable[[], Awaitable[object]]) -> None:
        self._happens = happens

    async def sleep(self, seconds: float) -> None:
        await self._happens()
        await super().sleep(seconds)


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(step(0), position=3),
        msgspec.structs.replace(step(0), stamp="log-b"),
        msgspec.structs.replace(step(0), epoch=1),
        msgspec.structs.replace(step(0), now=1),
    ],
)
async def test_a_checkpoint_another_follower_moved_meanwhile_is_not_taken_for_ones_own(
    postgres: Postgres, url: str, store: PostgresReadStore, other: Change
) -> None:
    async with Proxy(postgres.port) as proxy:
        world = Meddler(lambda: store.save(other))
        through = await PostgresReadStore.open(behind(proxy, postgres, url), world=world)
        await through.prepare([ORDERS])
        proxy.cut(At.REQUEST, matching=SAVING)
        with pytest.raises(Conflict):
            await through.save(step(0))
        await through.close()


async def test_a_split_whose_answer_is_lost_has_been_made_once(
    postgres: Postgres, url: str, store: PostgresReadStore
) -> None:
    await store.save(step(0))
    left, right = WHOLE.halves()
    async with Proxy(postgres.port) as proxy:
        through = await PostgresReadStore.open(behind(proxy, postgres, url))
        await through.prepare([ORDERS])
        for place in At:
            made = proxy.cut(place, matching=b"COMMIT")
            await through.repartition(ORDERS, [WHOLE], [left, right])
            assert made.made == 1
            assert [each.partition for each in await store.checkpoints()] == [left, right]
            with pytest.raises(Conflict):
                await through.repartition(ORDERS, [WHOLE], [left, right])
            await store.repartition(ORDERS, [left, right], [WHOLE])
        await through.close()
    assert await whole_at(store) == 1


async def test_connections_killed_while_idle_are_not_noticed_by_followers(
    postgres: Postgres, store: PostgresReadStore
) -> None:
    await asyncio.gather(*(loaded(store, ORDERS, ["a"]) for _ in range(4)))
    for n in range(3):
        for connection in [*store._server.followers._idle, *store._server.snapshots._idle]:
            postgres.sql(f"select pg_terminate_backend({connection.get_server_pid()})")
        await store.save(step(n))
        assert await whole_at(store) == n + 1


# ------------------------------------------------------------------------------------------------ two followers at once


class Held:
    """A transaction elsewhere that holds the row of a key."""

    def __init__(self, postgres: Postgres, store: PostgresReadStore) -> None:
        self._postgres = postgres
        self._schema = store._address.schema

    async def __aenter__(self) -> "Held":
        self._connection = await asyncpg.connect(self._postgres.dsn)
        await self._connection.execute(f"begin; select from {self._schema}.\"orders@1\" where key = 'a' for update")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def until_there_wait(self, waiting: int) -> None:
        """Return once so many saves wait for a lock."""
        asked = (
            "select count(*) from pg_stat_activity"
            f" where wait_event_type = 'Lock' and query like '%{self._schema}%' and query like 'with moved%'"
        )
        await asyncio.to_thread(wait_until, lambda: self._postgres.sql(asked) == str(waiting), "saves to wait")


async def test_who_took_over_waits_for_the_save_that_is_under_way_and_then_sees_it(
    postgres: Postgres, url: str, store: PostgresReadStore
) -> None:
    other = await PostgresReadStore.open(url)
    await other.prepare([ORDERS])
    await store.save(Change(ORDERS, LOG, 0, 1, 0, at(1, {"a": Order()}), epoch=1))
    async with Held(postgres, store) as held:
        late = asyncio.create_task(store.save(Change(ORDERS, LOG, 1, 2, 0, at(2, {"a": Order(total=2)}), epoch=1)))
        await held.until_there_wait(1)
        takes_over = Change(ORDERS, LOG, 1, 5, 0, at(5, {"a": Order(total=5), "b": Order()}), epoch=2)
        over = asyncio.create_task(other.save(takes_over))
        await held.until_there_wait(2)
    await late
    with pytest.raises(Conflict, match="'orders' is at 2"):
        await over
    assert await found_rows(other, ORDERS) == [("a", Order(total=2))]
    await other.save(msgspec.structs.replace(takes_over, before=2))
    assert await found_rows(store, ORDERS) == [("a", Order(total=5)), ("b", Order())]
    await other.close()


async def test_a_zombie_waits_for_who_took_over_and_leaves_no_row_behind(
    postgres: Postgres, url: str, store: PostgresReadStore
) -> None:
    other = await PostgresReadStore.open(url)
    await other.prepare([ORDERS])
    await store.save(Change(ORDERS, LOG, 0, 1, 0, at(1, {"a": Order(), "gone": Order()}), epoch=1))
    async with Held(postgres, store) as held:
        # Not even its position need move for that: the epoch does.
        over = asyncio.create_task(
            other.save(Change(ORDERS, LOG, 1, 1, 0, {"a": VersionedRow(Order("bob"), 1, 1)}, epoch=2))
        )
        await held.until_there_wait(1)
        late = {
            "zombie": VersionedRow(Order(), 9),
            "gone": VersionedRow(None, 9),
            "a": VersionedRow(Order("zombie"), 9, 9),
        }
        zombie = asyncio.create_task(store.save(Change(ORDERS, LOG, 1, 9, 0, late, step(0).parked, epoch=1)))
        await held.until_there_wait(2)
    await over
    with pytest.raises(Conflict, match="later epoch than 1"):
        await zombie
    assert await found_rows(other, ORDERS) == [("a", Order("bob")), ("gone", Order())]
    assert await parked_keys(other, ORDERS) == ()
    (reached,) = await other.checkpoints()
    assert reached == Checkpoint("orders", 1, msgspec.structs.replace(reached.progress, position=1), epoch=2)
    await other.close()


async def test_a_save_and_a_drop_at_once_do_not_wait_for_one_another(url: str, store: PostgresReadStore) -> None:
    other = await PostgresReadStore.open(url)
    for n in range(10):
        await store.prepare([ORDERS])
        saved, dropped = await asyncio.gather(store.save(step(0)), other.drop("orders", 1), return_exceptions=True)
        assert dropped is None
        assert saved is None or isinstance(saved, Conflict | Unavailable), n
        assert await store.checkpoints() == []
    await other.close()


async def test_who_declares_other_fields_shuts_out_followers_that_would_leave_them_empty(
    url: str, store: PostgresReadStore
) -> None:
    bare = ReadModel("orders", 1, Order)
    old = await PostgresReadStore.open(url)
    await old.prepare([bare])
    await old.save(Change(bare, LOG, 0, 1, 0, at(1, {"a": Order()})))
    await store.prepare([ORDERS])
    with pytest.raises(Unavailable, match="restart this one"):
        await old.save(Change(bare, LOG, 1, 2, 0, at(2, {"b": Order()})))
    await store.save(Change(ORDERS, LOG, 1, 2, 0, at(2, {"b": Order()})))
    assert await keys(store, ORDERS, {"customer": "ann"}) == ["a", "b"]
    # The other way round it is the same.
    await old.prepare([bare])
    with pytest.raises(Unavailable, match="restart this one"):
        await store.save(Change(ORDERS, LOG, 2, 3, 0, at(3, {"c": Order()})))
    with pytest.raises(Unavailable, match="restart this one"):
        await keys(store, ORDERS, {"customer": "ann"})
    assert await keys(old, bare) == ["a", "b"]
    await old.close()


async def test_fields_declared_under_load_are_in_every_row(url: str, store: PostgresReadStore) -> None:
    bare = ReadModel("orders", 1, Order)
    await store.prepare([bare])
    writer = await PostgresReadStore.open(url)
    await writer.prepare([bare])
    saved, under_load = 0, asyncio.Event()
    random = Random(1)

    async def follow() -> None:
        nonlocal saved
        while True:
            rows = {f"k{random.randrange(10_000)}": Order(total=saved) for _ in range(50)}
            try:
                await writer.save(Change(bare, LOG, saved, saved + 1, 0, at(saved + 1, rows)))
            except Unavailable:
                return
            saved += 1
            if saved == 20:
                under_load.set()

    following = asyncio.create_task(follow())
    await under_load.wait()
    await store.prepare([ORDERS])
    await following
    whole = await found_rows(store, ORDERS)
    assert len(whole) > 500
    assert await found_rows(store, ORDERS, {"customer": "ann"}) == whole
    assert (await progress(store, ORDERS)).position == saved
    await writer.close()

"""A standby takes over: what was acknowledged is there, or the loss is said; two histories are never mixed."""

import asyncio
from pathlib import Path

import pytest

from tests.patience import giving_up_after
from tests.servers.postgres import Postgres
from tests.servers.proxy import Proxy
from tests.servers.standby import Standby, standby_of
from tests.write_store.failover_helpers import commands_of, on, one, opened, until, written
from tests.write_store.postgres_helpers import fresh_log
from tests.write_store.postgres_load_helpers import Load, check_log
from twofold import AppendCondition, EventQuery, Metadata, QueryItem, Unavailable
from twofold.domain.event_query import ALL_EVENTS
from twofold.write_store.port import Append, Appended
from twofold.write_store.postgres import PostgresWriteStore

COMMITS_THAT_WAIT = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"


@pytest.mark.parametrize(
    "failovers", [pytest.param(1, id="one"), pytest.param(10, id="ten", marks=pytest.mark.torture)]
)
@pytest.mark.timeout(600)
async def test_a_synchronous_standby_takes_over_under_load_and_every_node_goes_on_by_itself(
    postgres_bindir: Path, failovers: int
) -> None:
    for turn in range(failovers):
        with Postgres(postgres_bindir) as primary, standby_of(primary, synchronous=True) as standby:
            url = on(await fresh_log(primary.dsn), primary, standby)
            await fail_over_under_load(url, primary, standby, Load(seed=turn), 100 + 37 * turn)


async def fail_over_under_load(url: str, primary: Postgres, standby: Standby, load: Load, commands: int) -> None:
    nodes = [await PostgresWriteStore.open(url, patience=90.0) for _ in range(4)]

    async def fail_over() -> int:
        await load.more(commands)
        primary.kill()
        before = len(load.acknowledged)
        standby.promote()
        async with asyncio.timeout(30):
            await load.more(1)
        await load.more(100)
        load.ended.set()
        return before

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        group.create_task(load.run(nodes, 3))
        group.create_task(load.follow(url))
        before = await fail_over()
    assert load.sent_again == 0, f"no command had to be sent again: {load.refusals}"
    assert await check_log(url, load) > before
    for node in nodes:
        ((epoch, after),) = node.identity.forks
        assert (node.identity.epoch, epoch) == (2, 2), "four nodes noticed, and the epoch rose by one"
        assert before <= after <= before + 12, "the fork lies where the new primary began"
        assert node.problem is None
        await node.close()


async def test_a_store_that_has_seen_lost_events_stops_and_says_what_to_do(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir) as primary, standby_of(primary) as standby:
        url = on(await fresh_log(primary.dsn), primary, standby)
        async with opened(url) as seeing, opened(url) as unaware:
            await written(seeing, "c-1", "c-2", "c-3")
            assert (await unaware.read(ALL_EVENTS)).head == 3
            standby.catch_up()
            standby.pause_receiving()
            assert await written(seeing, "lost-4", "lost-5") == [4, 5]
            primary.kill()
            standby.promote()

            with pytest.raises(Unavailable) as stopped:
                await seeing.append([one("c-6")])
            log = seeing.identity.log
            assert seeing.problem == str(stopped.value)
            assert seeing.problem is not None
            for part in (
                f"The log {log} has lost events",
                "has seen position 5",
                "epoch 2 continues after 3",
                "restart",
            ):
                assert part in seeing.problem

            # The new history grows beyond what was lost, and the old memory fits it no better.
            assert await written(unaware, "new-4", "new-5", "new-6") == [4, 5, 6]
            assert unaware.identity.forks == ((2, 3),)
            for refused in (seeing.read(ALL_EVENTS), seeing.newer([]), seeing.append([one("c-7")])):
                with pytest.raises(Unavailable, match="has lost events"):
                    await refused
            async with opened(url) as fresh:
                assert await commands_of(fresh) == ["c-1", "c-2", "c-3", "new-4", "new-5", "new-6"]
                assert not fresh.identity.holds(f"{log}.1.-", 4)
                assert fresh.identity.holds(f"{log}.1.-", 3)


async def test_an_append_whose_type_was_lost_with_the_primary_is_written_under_its_own_name(
    postgres_bindir: Path,
) -> None:
    with Postgres(postgres_bindir) as primary, standby_of(primary) as standby:
        url = on(await fresh_log(primary.dsn), primary, standby)
        async with opened(url) as store, opened(url) as another:
            await written(store, "c-1")
            standby.catch_up()
            standby.pause_receiving()
            # A type gets its number when it is first asked about, before anything of it is written.
            unseen = AppendCondition(EventQuery((QueryItem(("ours",), ("k:1",)),)), 0)
            await store.append([Append(Metadata(0, "asks", "asks"), conditions=(unseen,))])
            primary.kill()
            standby.promote()
            await another.append([one("c-2", "theirs")])
            await store.append([one("c-3", "ours")])
            types = [event.type for event in (await another.read(ALL_EVENTS)).events]
            assert types == ["a", "theirs", "ours"]


async def test_what_a_zombie_wrote_stays_in_its_own_timeline(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir) as primary, standby_of(primary) as standby:
        made = await fresh_log(primary.dsn)
        async with opened(on(made, primary, standby)) as zombie, opened(on(made, standby, primary)) as moved:
            await written(zombie, "c-1", "c-2")
            assert (await moved.read(ALL_EVENTS)).head == 2
            standby.catch_up()
            standby.promote()
            async with opened(on(made, standby)) as node:
                await written(node, "new-3")
            # Nobody has reported the old primary, nor the node that is connected to it.
            assert await written(zombie, "zombie-3", "zombie-4") == [3, 4]

            primary.kill()
            with pytest.raises(Unavailable, match="has seen position 4, but epoch 2 continues after 2"):
                await zombie.append([one("zombie-5")])
            assert await commands_of(moved) == ["c-1", "c-2", "new-3"]
            assert moved.identity.forks == ((2, 2),)


async def test_a_node_that_knows_the_new_epoch_does_not_go_back_to_an_old_primary(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir) as primary, standby_of(primary) as standby:
        made = await fresh_log(primary.dsn)
        async with opened(on(made, primary)) as old, opened(on(made, standby, primary)) as node:
            await written(old, "c-1")
            standby.catch_up()
            standby.promote()
            async with opened(on(made, standby)) as new:
                await written(new, "new-2")
            # This one is connected to the old primary until that connection breaks.
            primary.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name = ''")
            assert await written(node, "new-3") == [3]
            await written(old, "old-2", "old-3", "old-4")

            standby.kill()
            for _ in range(2):
                for refused in (node.append([one("mixed")]), node.read(ALL_EVENTS), node.rows("s")):
                    with (
                        giving_up_after(1.0, node),
                        pytest.raises(Unavailable, match="epoch 1 of the log, but the log is in epoch 2"),
                    ):
                        await refused
            assert await commands_of(old) == ["c-1", "old-2", "old-3", "old-4"]

            standby.start()
            assert await written(node, "new-4") == [4]
            assert node.problem is None
            assert await commands_of(node) == ["c-1", "new-2", "new-3", "new-4"]


async def test_a_commit_that_waits_for_its_standby_is_resolved_by_its_command_id(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir) as primary, standby_of(primary, synchronous=True) as standby:
        made = await fresh_log(primary.dsn)
        async with Proxy(primary.port) as proxy:
            through = made.replace(primary.dsn, proxy.dsn_of(primary))
            async with opened(through) as store, opened(made) as another:
                await written(store, "c-1")
                standby.pause_receiving()
                sent = asyncio.create_task(store.append([one("c-2")]))
                await until(lambda: primary.sql(COMMITS_THAT_WAIT) == "1")
                given_up = asyncio.create_task(another.append([one("c-3")]))
                await until(lambda: primary.sql("select count(*) from pg_locks where not granted") == "1")
                given_up.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await given_up
                proxy.cut_all()
                assert not sent.done(), "nothing is acknowledged that the standby does not have"

                standby.resume_receiving()
                assert await sent == [Appended(2, 1)]
                assert await another.append([one("c-3")]) == [Appended(3, 1, repeated=True)]
                assert await commands_of(store) == ["c-1", "c-2", "c-3"]


@pytest.mark.parametrize("how", ["pg_cancel_backend", "pg_terminate_backend"])
async def test_a_commit_whose_waiting_is_broken_off_on_the_server_is_acknowledged_when_the_standby_has_it(
    postgres_bindir: Path, how: str
) -> None:
    with Postgres(postgres_bindir) as primary, standby_of(primary, synchronous=True) as standby:
        async with opened(await fresh_log(primary.dsn)) as store:
            await written(store, "c-1")
            standby.pause_receiving()
            sent = asyncio.create_task(store.append([one("c-2")]))
            waiting = "select coalesce(min(pid), 0) from pg_stat_activity where wait_event = 'SyncRep'"
            await until(lambda: primary.sql(waiting) != "0")
            first = primary.sql(waiting)
            assert primary.sql(f"select {how}({first})") == "t"
            # It was committed where it stood, and is there: sent again, it waits for the standby once more.
            await until(lambda: primary.sql(waiting) not in ("0", first))
            assert not sent.done()
            standby.resume_receiving()
            assert await sent == [Appended(2, 1)]
            assert await commands_of(store) == ["c-1", "c-2"]

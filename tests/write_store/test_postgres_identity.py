"""Which history a log in PostgreSQL is: restored, copied or fenced, it goes on as another; a standby shows a part."""

import asyncio
import json
import subprocess
from pathlib import Path

import asyncpg
import pytest

from tests.cli.command_line_helpers import TWOFOLD
from tests.servers.postgres import Postgres
from tests.servers.standby import standby_of
from tests.write_store.failover_helpers import commands_of, on, one, opened, written
from tests.write_store.postgres_helpers import fresh_log
from tests.write_store.postgres_load_helpers import Load, check_log
from twofold import Metadata, Unavailable
from twofold.domain.event_query import ALL_EVENTS
from twofold.write_store.history import UNCHECKED
from twofold.write_store.port import Append, Appended, LogRow, RowWrite
from twofold.write_store.postgres.address import address_of
from twofold.write_store.postgres.batch import Call, Known
from twofold.write_store.postgres.functions import APPEND, Caller


def dump(server: Postgres, how: str) -> Path:
    """A dump made with an operator's tools: of the database, or of the whole cluster."""
    to, tool = server.folder / how, server.bindir / how
    options = ["--format=custom"] if how == "pg_dump" else []
    server._run(tool, f"--dbname={server.dsn}", f"--file={to}", *options)
    return to


def restore(server: Postgres, dump: Path) -> None:
    if dump.name == "pg_dump":
        server._run(server.bindir / "pg_restore", f"--dbname={server.dsn}", "--exit-on-error", dump)
    else:
        # The role that exists already is no reason to stop.
        server._run(server.bindir / "psql", f"--dbname={server.dsn}", "--quiet", f"--file={dump}")


@pytest.mark.parametrize("how", ["pg_dump", "pg_dumpall"])
async def test_a_log_restored_into_another_cluster_goes_on_behind_its_last_event_in_an_epoch_of_its_own(
    postgres_bindir: Path, how: str
) -> None:
    with Postgres(postgres_bindir) as server, Postgres(postgres_bindir) as another:
        url = await fresh_log(server.dsn)
        async with opened(url) as store:
            await written(store, "c-1", "c-2", "c-3")
            before = (await store.read(ALL_EVENTS)).events
            restore(another, dump(server, how))
            await written(store, "too-late-4", "too-late-5")
            stamp = store.identity.stamp(UNCHECKED)
        async with opened(on(url, another)) as restored:
            assert [(e.position, e.id, e.payload) for e in (await restored.read(ALL_EVENTS)).events] == [
                (e.position, e.id, e.payload) for e in before
            ]
            assert (restored.identity.epoch, restored.identity.forks) == (2, ((2, 3),))
            assert await restored.append([one("c-2")]) == [Appended(2, 1, repeated=True)]
            assert await written(restored, "new-4", "new-5", "new-6") == [4, 5, 6]
            assert restored.identity.holds(stamp, 3)
            assert not restored.identity.holds(stamp, 4), "another event stands there"
            causes = f"select cause from {address_of(url).schema}.epochs"
            assert another.sql(causes) == "it was restored into another cluster"


async def test_a_running_store_that_meets_a_restored_log_writes_nothing_on_top_of_what_it_had_seen(
    postgres_bindir: Path,
) -> None:
    with Postgres(postgres_bindir) as server, Postgres(postgres_bindir) as another:
        made = await fresh_log(server.dsn)
        async with opened(on(made, server, another)) as store:
            await written(store, "c-1", "c-2", "c-3")
            saved = dump(server, "pg_dump")
            await written(store, "lost-4", "lost-5")
            restore(another, saved)
            server.kill()
            with pytest.raises(Unavailable, match="has seen position 5, but epoch 2 continues after 3"):
                await store.append([one("c-6")])
        async with opened(on(made, another)) as restored:
            assert await commands_of(restored) == ["c-1", "c-2", "c-3"]


async def test_rows_are_read_of_the_present_history_alone(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir) as server, Postgres(postgres_bindir) as another:
        made = await fresh_log(server.dsn)
        async with opened(on(made, server, another)) as store, opened(on(made, server)) as behind:
            await written(store, "c-1", "c-2", "c-3")
            await store.append([Append(Metadata(0, "r", "r"), rows=(RowWrite("s", "k", b"1", 0),))])
            server.sql(f"select {address_of(made).schema}.raise_epoch(1, 'an operator says so')")
            assert await behind.rows("s", ["k"]) == {"k": LogRow(b"1", 1)}
            assert behind.identity.epoch == 2, "it learns of the epoch by the rows"
            saved = dump(server, "pg_dump")
            await written(store, "lost-4")
            await store.append([Append(Metadata(0, "r", "r"), rows=(RowWrite("s", "k", b"lost", 1),))])
            restore(another, saved)
            server.kill()
            with pytest.raises(Unavailable, match="is at position 3, but this process has seen 4"):
                await store.rows("s", ["k"])


async def test_a_history_that_is_given_up_for_another_of_the_same_age_is_shut_out_by_raising_the_epoch_twice(
    postgres_bindir: Path,
) -> None:
    with Postgres(postgres_bindir) as given_up, Postgres(postgres_bindir) as kept:
        made = await fresh_log(given_up.dsn)
        async with opened(made) as store:
            await written(store, "c-1", "c-2")
        restore(kept, dump(given_up, "pg_dump"))
        raise_epoch = f"select {address_of(made).schema}.raise_epoch"
        given_up.sql(f"{raise_epoch}(1, 'restored for the first time')")
        async with opened(on(made, given_up, kept)) as store:
            await written(store, "given-up-3", "given-up-4")
            stamp = store.identity.stamp(UNCHECKED)
            kept.sql(f"{raise_epoch}(1, 'restored once more'); {raise_epoch}(2, 'the first one is given up')")
            async with opened(on(made, kept)) as fresh:
                await written(fresh, "c-3", "c-4", "c-5")
                assert not fresh.identity.holds(stamp, 3)
                assert fresh.identity.holds(stamp, 2)
            given_up.kill()
            with pytest.raises(Unavailable, match="has seen position 4, but epoch 3 continues after 2"):
                await store.append([one("mixed")])


async def test_a_position_is_not_given_again_when_the_tail_of_the_log_has_been_deleted(
    postgres_newest: Postgres,
) -> None:
    url = await fresh_log(postgres_newest.dsn)
    schema = address_of(url).schema
    async with opened(url) as store:
        await written(store, "c-1", "c-2", "c-3")
        delete = "; ".join(f"delete from {schema}.{table} where position = 3" for table in ("events", "event_tags"))
        postgres_newest.sql(f"set session_replication_role = replica; {delete}")
        assert await written(store, "c-4") == [4]
        # Without the event at 3 a page of the whole log is refused.
        assert [event.position for event in (await store.read(ALL_EVENTS, 3)).events] == [4]


async def test_an_append_of_an_epoch_that_is_over_is_refused_and_writes_nothing(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    schema = address_of(url).schema
    async with opened(url) as store:
        await written(store, "c-1")
        assert postgres.sql(f"select {schema}.raise_epoch(1, 'an operator says so')") == "2"
        assert postgres.sql(f"select {schema}.raise_epoch(1, 'another one, too')") == "2", "it rises once"
        connection = await asyncpg.connect(postgres.dsn)
        fenced = Call([one("fenced")], {"a": 1}, nonce=7, seen=1, recorded_at=0).arguments(1, Known(0, b""))
        with pytest.raises(asyncpg.PostgresError) as refused:
            await Caller(schema, plain=False).call(connection, APPEND, *fenced)
        await connection.close()
        assert refused.value.sqlstate == "TF001"
        assert postgres.sql(f"select count(*) from {schema}.commands where command_id = 'fenced'") == "0"
        # Who has seen nothing that is gone takes the new epoch, and goes on.
        assert await written(store, "c-2") == [2]
        assert (store.identity.epoch, store.problem) == (2, None)
        assert await commands_of(store) == ["c-1", "c-2"]


async def test_an_operator_who_starts_a_copy_of_the_data_directory_begins_its_epoch(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir) as server:
        made = await fresh_log(server.dsn)
        copy = Postgres(postgres_bindir)
        async with opened(on(made, server, copy)) as store:
            await written(store, "c-1", "c-2", "c-3")
            server.stop()
            server._run("/bin/cp", "-a", server.data, copy.data)
            server.start()
            await written(store, "lost-4")
            server.kill()
            with copy:
                copy.sql(f"select {address_of(made).schema}.raise_epoch(1, 'a copy of the data directory was started')")
                async with opened(on(made, copy)) as fresh:
                    await written(fresh, "new-4", "new-5")
                with pytest.raises(Unavailable, match="has seen position 4, but epoch 2 continues after 3"):
                    await store.append([one("c-5")])


@pytest.mark.parametrize(
    "pauses", [pytest.param(3, id="3 pauses"), pytest.param(100, id="100 pauses", marks=pytest.mark.torture)]
)
@pytest.mark.timeout(600)
async def test_a_reader_on_a_standby_sees_a_beginning_of_the_log_and_never_a_hole(
    postgres_bindir: Path, pauses: int
) -> None:
    with Postgres(postgres_bindir) as primary, standby_of(primary) as standby:
        made = await fresh_log(primary.dsn)
        standby.catch_up()
        there = on(made, standby)
        load = Load(seed=pauses)

        async def pause_and_resume() -> None:
            async with opened(there, read_only=True) as reader:
                for _ in range(pauses):
                    await load.more(30)
                    standby.pause_replay()
                    head = (await reader.read(ALL_EVENTS)).head
                    await load.more(30)
                    paused = await reader.read(ALL_EVENTS)
                    assert [event.position for event in paused.events] == list(range(1, head + 1))
                    standby.resume_replay()
                    while (await reader.read(ALL_EVENTS, head)).head == head:
                        await reader.wait(head, 1.0)
                with pytest.raises(Unavailable, match="reading only"):
                    await reader.append([one("c-1")])
            load.ended.set()
            standby.catch_up()

        async with (
            opened(made) as one_node,
            opened(made) as another,
            asyncio.timeout(500),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(load.run([one_node, another], 3))
            group.create_task(load.follow(there))
            group.create_task(pause_and_resume())
        standby.catch_up()
        head = await check_log(there, load, followed=False)
        assert load.seen_live == list(range(1, len(load.seen_live) + 1)), "the live reader saw a hole"
        shown = subprocess.run(
            [TWOFOLD, "log", "--write-store", there, "--json", "--limit", str(head)],
            capture_output=True,
            text=True,
            check=True,
        )
        *events, end = [json.loads(line)["data"] for line in shown.stdout.splitlines()]
        assert [event["position"] for event in events] == list(range(1, head + 1))
        assert (end["events"], end["upto"]) == (head, head)


async def test_a_transaction_that_stays_open_elsewhere_in_the_cluster_holds_nobody_up(
    postgres_newest: Postgres,
) -> None:
    url = await fresh_log(postgres_newest.dsn)
    elsewhere = [await asyncpg.connect(dsn) for dsn in (postgres_newest.create_database(), postgres_newest.dsn)]
    table = f"{address_of(url).schema}.elsewhere"
    async with opened(url) as store, opened(url, read_only=True) as follower:
        await elsewhere[0].execute("create table elsewhere (n int)")
        await elsewhere[1].execute(f"create table {table} (n int)")
        for connection, name in zip(elsewhere, ("elsewhere", table), strict=True):
            await connection.execute(f"begin; insert into {name} values (1)")
        assert await written(store, "c-1", "c-2") == [1, 2]
        page = await follower.read(ALL_EVENTS)
        assert ([event.position for event in page.events], page.upto) == ([1, 2], 2)
        for connection in elsewhere:
            await connection.execute("rollback")
            await connection.close()

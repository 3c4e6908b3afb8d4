"""Wherever the power goes off or a connection is cut: events and their inline rows are both there, or neither is."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import Random

import asyncpg
import msgspec
import pytest

from tests.command_service.inline_row_helpers import check_rows
from tests.command_service.service_helpers import Services
from tests.sample_domains.bank import INLINE_BANK, any_command
from tests.servers.postgres import Postgres
from tests.write_store.disk_helpers import faulty_disk
from tests.write_store.postgres_helpers import fresh_log
from twofold.domain.event_query import ALL_EVENTS
from twofold.errors import Conflict, Rejected, Unavailable
from twofold.write_store.port import Append, Appended, Outcome, RowGuard
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.sqlite import SqliteWriteStore

CALLERS = 8
CUTS = 12

_VICTIMS = """
select pid from pg_stat_activity
where pid <> pg_backend_pid() and backend_type = 'client backend' and datname = current_database()
"""


class TwoCommits(SqliteWriteStore):
    """A store that writes the rows of an append after its events, as if the two need not be together."""

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for each in batch:
            guards = (*each.guards, *(RowGuard(row.space, row.key, row.expected) for row in each.rows))
            outcomes += await super().append([msgspec.structs.replace(each, rows=(), guards=guards)])
            if each.rows and isinstance(outcomes[-1], Appended) and not outcomes[-1].repeated:
                await super().append([Append(each.metadata, rows=each.rows)])
        return outcomes


async def write_until_dark(write_store: SqliteWriteStore, random: Random, acknowledged: list[str]) -> None:
    """Commands of several callers at once, until the first gets the error of the disk."""

    async def call(services: Services, caller: int) -> None:
        n = 0
        while True:
            command_id = f"{caller}-{n}-{random.random()}"
            n += 1
            try:
                written = await services.handle(any_command(random), command_id)
            except Rejected:
                continue
            except Unavailable:
                return
            acknowledged.extend(f"{command_id}.{i}" for i in range(written.count))

    with suppress(Unavailable):
        async with Services(write_store, INLINE_BANK) as services:
            await asyncio.gather(*(call(services, caller) for caller in range(CALLERS)))


async def cut_power(seed: int, folder: Path, kind: type[SqliteWriteStore] = SqliteWriteStore) -> None:
    """AssertionError where a cut leaves rows that are not the fold of the log, or loses what was acknowledged."""
    random = Random(seed)
    acknowledged: list[str] = []
    for cut in range(CUTS):
        before, after = folder / f"{seed}-{cut}", folder / f"{seed}-{cut + 1}"
        before.mkdir(exist_ok=True)
        after.mkdir()
        with faulty_disk() as disk:
            write_store = kind(before / "log.db", vfs=disk.name)
            disk.cut_power(after=random.randint(20, 160))
            await write_until_dark(write_store, random, acknowledged)
            disk.survive(after, random.random)
            disk.without_power = False
            disk.cut_power(after=1_000_000)
            await write_store.close()
        found = SqliteWriteStore(after / "log.db")
        try:
            async with Services(found, INLINE_BANK):
                await check_rows(found)
            ids = {event.id for event in (await found.read(ALL_EVENTS)).events}
            assert set(acknowledged) <= ids, "what was acknowledged is lost"
        finally:
            await found.close()
    assert len(acknowledged) > CUTS


async def test_a_power_cut_leaves_events_with_their_rows_or_neither(tmp_path: Path) -> None:
    for seed in range(6):
        await cut_power(seed, tmp_path)


async def test_power_cuts_find_out_a_store_that_writes_rows_in_a_commit_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        for seed in range(10):
            await cut_power(seed, tmp_path, TwoCommits)


@pytest.mark.parametrize(
    "kills", [pytest.param(30, id="30 kills"), pytest.param(500, id="500 kills", marks=pytest.mark.torture)]
)
async def test_connections_that_are_killed_leave_events_with_their_rows_or_neither(
    postgres_bindir: Path, kills: int
) -> None:
    random = Random(kills)
    acknowledged: list[str] = []
    ended = asyncio.Event()

    async def call(services: Services, caller: int) -> None:
        n = 0
        while not ended.is_set():
            n += 1
            command = any_command(random)
            for _ in range(100):
                try:
                    written = await services.handle(command, f"{caller}-{n}")
                    acknowledged.extend(f"{caller}-{n}.{i}" for i in range(written.count))
                except (Unavailable, Conflict):
                    continue
                except Rejected:
                    break
                break

    with Postgres(postgres_bindir) as server:
        url = await fresh_log(server.dsn)
        killer = await asyncpg.connect(server.dsn)
        async with AsyncExitStack() as opened:
            nodes: list[Services] = []
            for _ in range(2):
                write_store = await PostgresWriteStore.open(url)
                opened.push_async_callback(write_store.close)
                nodes.append(await opened.enter_async_context(Services(write_store, INLINE_BANK)))
            callers = [asyncio.create_task(call(nodes[n % 2], n)) for n in range(CALLERS)]
            for _ in range(kills):
                enough = len(acknowledged) + random.randrange(12)
                while len(acknowledged) < enough and not any(each.done() for each in callers):
                    await asyncio.wait(callers, timeout=0.005)
                victims = [pid for (pid,) in await killer.fetch(_VICTIMS)]
                if victims:
                    await killer.execute("select pg_terminate_backend($1)", random.choice(victims))
            ended.set()
            await asyncio.gather(*callers)
        await killer.close()
        log = await PostgresWriteStore.open(url)
        await check_rows(log)
        ids = [event.id for event in (await log.read(ALL_EVENTS)).events]
        assert len(ids) == len(set(ids)), "something is there twice"
        assert set(acknowledged) <= set(ids), "what was acknowledged is lost"
        assert len(acknowledged) > kills
        await log.close()

"""Whatever is killed under load, connections or the server: nothing is lost, doubled, or decided on another past."""

import asyncio
from pathlib import Path
from random import Random

import asyncpg
import pytest

from tests.servers.postgres import ENDURES_KILLS, Postgres
from tests.write_store.postgres_helpers import fresh_log
from tests.write_store.postgres_load_helpers import Load, check_log
from twofold.write_store.postgres import PostgresWriteStore

NODES = 4
CALLERS = 6

_VICTIMS = """
select pid from pg_stat_activity
where pid <> pg_backend_pid() and backend_type = 'client backend' and datname = current_database()
"""


@pytest.mark.parametrize(
    "kills", [pytest.param(80, id="80 kills"), pytest.param(2_000, id="2000 kills", marks=pytest.mark.torture)]
)
async def test_connections_killed_at_random_under_four_nodes_lose_and_double_nothing(
    postgres_bindir: Path, kills: int
) -> None:
    with Postgres(postgres_bindir) as server:
        url = await fresh_log(server.dsn)
        load = Load(seed=kills, reserving=0.3)
        nodes = [await PostgresWriteStore.open(url) for _ in range(NODES)]
        killer = await asyncpg.connect(server.dsn)
        random = Random(kills)

        async def kill() -> int:
            killed = 0
            while killed < kills:
                victims = [pid for (pid,) in await killer.fetch(_VICTIMS)]
                if victims:
                    killed += await killer.fetchval("select pg_terminate_backend($1)::int", random.choice(victims))
                # Some commands between two kills, so that each meets another moment.
                await load.more(random.randrange(12))
            load.ended.set()
            return killed

        await asyncio.wait_for(asyncio.gather(kill(), load.run(nodes, CALLERS), load.follow(url)), 600)
        await killer.close()
        for node in nodes:
            await node.close()
        assert await check_log(url, load) >= kills


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "kills", [pytest.param(20, id="20 kills"), pytest.param(200, id="200 kills", marks=pytest.mark.torture)]
)
async def test_a_server_killed_under_load_has_everything_it_acknowledged(postgres_bindir: Path, kills: int) -> None:
    with Postgres(postgres_bindir, **ENDURES_KILLS) as server:
        url = await fresh_log(server.dsn)
        load = Load(seed=kills)
        nodes = [await PostgresWriteStore.open(url, patience=30.0) for _ in range(2)]

        async def kill() -> None:
            random = Random(kills)
            for _ in range(kills):
                await load.more(20 + random.randrange(40))
                server.kill()
                server.start()
            load.ended.set()

        await asyncio.wait_for(asyncio.gather(kill(), load.run(nodes, CALLERS), load.follow(url)), 900)
        for node in nodes:
            await node.close()
        assert await check_log(url, load) >= 20 * kills

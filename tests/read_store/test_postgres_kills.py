"""Whatever is killed while it saves, follower or server: rows, parked keys and checkpoint are of one position."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.architecture.rules import ROOT
from tests.read_store.postgres_follower import step, whole_at
from tests.servers.postgres import ENDURES_KILLS, Postgres, fresh_schema
from twofold.errors import Conflict
from twofold.read_store.port import Change, VersionedRow
from twofold.read_store.postgres import PostgresReadStore
from twofold.testing.read_store_rows import LOG, ORDERS, Order, progress


async def test_a_follower_killed_while_saving_leaves_rows_and_checkpoint_together(postgres: Postgres) -> None:
    url = f"{postgres.dsn}?schema={fresh_schema()}"
    store = await PostgresReadStore.open(url)
    await store.prepare([ORDERS])
    for kill_after in (1, 2, 5, 9, 14):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.read_store.postgres_follower", url], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        saved = 0
        for _ in range(kill_after):
            saved = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        # What it had sent last may still be under way: the next save waits for that.
        position = await take_over(store)
        assert position > saved
        assert await whole_at(store) == position
    await store.close()


async def take_over(store: PostgresReadStore) -> int:
    """The position of the first save after whatever is under way."""
    while True:
        before = (await progress(store, ORDERS)).position
        try:
            await store.save(step(before))
            return before + 1
        except Conflict:
            continue


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.torture)])
async def test_a_server_killed_under_load_has_no_part_of_a_save_and_is_followed_for_from_where_it_is(
    postgres_bindir: Path, kills: int
) -> None:
    with Postgres(postgres_bindir, **ENDURES_KILLS) as server:
        url = f"{server.dsn}?schema={fresh_schema()}"
        store = await PostgresReadStore.open(url, patience=60.0)
        await store.prepare([ORDERS])
        random, saved, moved = Random(kills), 0, asyncio.Event()
        done = False

        async def follow() -> None:
            nonlocal saved, moved
            while not done:
                try:
                    await store.save(step(saved))
                except Conflict:
                    # The last saves of a server that is killed may be gone, as the log has what is in them.
                    gone_back_to = (await progress(store, ORDERS)).position
                    assert gone_back_to < saved, "a save was done twice, or taken for another"
                    saved = gone_back_to
                    continue
                saved += 1
                moved.set()
                moved = asyncio.Event()

        following = asyncio.create_task(follow())
        for _ in range(kills):
            for _ in range(random.randrange(3, 30)):
                await asyncio.wait_for(moved.wait(), 60)
            server.kill()
            server.start()
            await whole_at(store)
        done = True
        await following
        assert await whole_at(store) == saved
        await store.close()


async def test_a_repair_that_was_answered_is_there_after_the_server_was_killed(postgres_bindir: Path) -> None:
    with Postgres(postgres_bindir, **ENDURES_KILLS) as server:
        store = await PostgresReadStore.open(f"{server.dsn}?schema={fresh_schema()}", patience=60.0)
        await store.prepare([ORDERS])
        await store.save(step(0))
        for repair in range(1, 6):
            repaired = VersionedRow(Order("repaired", repair), 1, repair)
            await store.save(Change(ORDERS, LOG, 1, 1, 0, {"k1": repaired}))
            server.kill()
            server.start()
            assert (await store.load(ORDERS, ["k1"]))["k1"] == repaired
        await store.close()

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
from tests.servers.postgres import Postgres, fresh_schema
from twofold.errors import Conflict
from twofold.read_store.postgres import PostgresReadStore
from twofold.testing.read_store_rows import ORDERS, progress


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
        # What it had sent last may still be under way: whoever saves next waits for that.
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
async def test_a_server_killed_under_load_has_every_save_it_answered_and_no_part_of_another(
    postgres_bindir: Path, kills: int
) -> None:
    with Postgres(postgres_bindir, durable=True) as server:
        url = f"{server.dsn}?schema={fresh_schema()}"
        store = await PostgresReadStore.open(url, patience=60.0)
        await store.prepare([ORDERS])
        random, saved, moved = Random(kills), 0, asyncio.Event()
        done = False

        async def follow() -> None:
            nonlocal saved, moved
            while not done:
                # No save is lost, doubled or taken for another: else this were a Conflict.
                await store.save(step(saved))
                saved += 1
                moved.set()
                moved = asyncio.Event()

        following = asyncio.create_task(follow())
        for _ in range(kills):
            for _ in range(random.randrange(3, 30)):
                await asyncio.wait_for(moved.wait(), 60)
            server.kill()
            answered = saved
            server.start()
            assert await whole_at(store) >= answered
        done = True
        await following
        assert await whole_at(store) == saved
        await store.close()

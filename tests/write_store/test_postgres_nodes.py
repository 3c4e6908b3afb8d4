"""A node that is stopped or killed keeps nobody waiting, and loses and doubles nothing."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import asyncpg
import pytest

from tests.patience import giving_up_after
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import broken_log, fresh_log
from tests.write_store.postgres_node import command
from twofold.domain.event_query import ALL_EVENTS
from twofold.errors import Unavailable
from twofold.write_store.port import Appended
from twofold.write_store.postgres import PostgresWriteStore

ROOT = Path(__file__).parents[2]


class Node:
    """A node in a process of its own, and what it has printed."""

    def __init__(self, url: str, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.write_store.postgres_node", url, name], cwd=ROOT, stdout=subprocess.PIPE
        )
        self.sent: list[str] = []
        self.acknowledged: list[str] = []

    async def until_it_has(self, commands: int) -> None:
        """Wait until it has had so many more commands acknowledged."""
        wanted = len(self.acknowledged) + commands
        while len(self.acknowledged) < wanted:
            assert await asyncio.to_thread(self._hear), "the node has ended by itself"

    def kill(self) -> None:
        """kill -9, and hear its last words."""
        self.process.kill()
        while self._hear():
            continue
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()

    def _hear(self) -> bool:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        what, _, command_id = line.strip().partition(" ")
        # The last line may have been cut off by the kill.
        if line.endswith("\n"):
            (self.sent if what == "sends" else self.acknowledged).append(command_id)
        return bool(line)


async def stopped_and_continued(url: str, times: int, patience: float = 10.0) -> None:
    """Appends while another node is stopped at random moments, and goes on only after them.

    Unavailable if it was stopped with the lock in its hands: who would wait for it waits for ever.
    """
    node, store = Node(url, "node"), await PostgresWriteStore.open(url, patience=patience)
    random = Random(17)
    try:
        for turn in range(times):
            await node.until_it_has(1 + random.randrange(20))
            for _ in range(random.randrange(2_000)):
                await asyncio.sleep(0)
            os.kill(node.process.pid, signal.SIGSTOP)
            for number in range(3):
                await store.append([command(f"other-{turn}-{number}")])
            os.kill(node.process.pid, signal.SIGCONT)
    finally:
        node.kill()
        await store.close()
    await hold_against_the_log(url, node.acknowledged, node.sent)


async def hold_against_the_log(url: str, acknowledged: list[str], sent: list[str]) -> None:
    """AssertionError unless all that is acknowledged is there, once, without a gap."""
    store = await PostgresWriteStore.open(url, read_only=True)
    found = await store.read(ALL_EVENTS)
    await store.close()
    assert [event.position for event in found.events] == list(range(1, found.head + 1))
    times = Counter(event.metadata.command_id for event in found.events)
    assert set(times.values()) <= {1}, "a command took effect twice"
    assert set(acknowledged) <= times.keys(), "something acknowledged is lost"
    assert {each for each in times if each.startswith("node")} <= set(sent)


async def test_a_node_that_is_stopped_keeps_no_other_from_writing(postgres_newest: Postgres) -> None:
    await stopped_and_continued(await fresh_log(postgres_newest.dsn), 20)


async def test_a_node_that_is_killed_loses_nothing_and_its_last_command_is_done_once(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    store, random = await PostgresWriteStore.open(url), Random(3)
    acknowledged: list[str] = []
    sent: list[str] = []
    for turn in range(8):
        node = Node(url, f"node{turn}")
        await node.until_it_has(1 + random.randrange(30))
        node.kill()
        acknowledged += node.acknowledged
        sent += node.sent
        # Nobody knows whether its last command was written. Whoever sends it again learns what it came to.
        (outcome,) = await store.append([command(node.sent[-1])])
        assert isinstance(outcome, Appended)
        acknowledged.append(node.sent[-1])
    await store.close()
    await hold_against_the_log(url, acknowledged, sent)


async def test_whoever_holds_the_head_row_for_long_makes_others_give_up_and_piles_up_no_servers(
    postgres_newest: Postgres,
) -> None:
    url = await fresh_log(postgres_newest.dsn)
    schema = url.rpartition("=")[2]
    store = await PostgresWriteStore.open(url, patience=60.0)
    await store.append([command("c-0")])
    holder = await asyncpg.connect(postgres_newest.dsn)
    async with holder.transaction():
        await holder.execute(f"select * from {schema}.log_head for update")
        for number in range(1, 7):
            with (
                giving_up_after(0.5, store),
                pytest.raises(Unavailable, match="Send them again under the same command ids"),
            ):
                await store.append([command(f"c-{number}")])
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like $1"
        assert await holder.fetchval(waiting, f"%{schema}.append%") <= 5, "each waits for two seconds at most"
    await holder.close()
    # Those that still waited are written now, though nobody hears of it: whoever sends them again does.
    for number in range(1, 7):
        (outcome,) = await store.append([command(f"c-{number}")])
        assert isinstance(outcome, Appended)
    await hold_against_the_log(url, [f"c-{number}" for number in range(7)], [])
    await store.close()


async def test_a_lock_that_a_node_would_hold_across_a_round_trip_is_found_out(postgres_newest: Postgres) -> None:
    """The proof that the first test can fail: a lock of the session, which outlives the call."""
    lock = "statement after this one.\n    select * into strict head from log_head for update;"
    held = lock.replace("\n", "\n    perform pg_advisory_lock(hashtext('{schema}'));\n", 1)
    url = await broken_log(postgres_newest.dsn, (lock, held))
    with pytest.raises(Unavailable):
        await stopped_and_continued(url, 20, patience=3.0)

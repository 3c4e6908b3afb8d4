"""Read models on a cluster of three: any one node may be killed, and nothing is lost, doubled or out of date."""

import sys
import time
from asyncio import create_subprocess_exec, subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.read_store.cassandra_follower import MODEL, answers, expected, made_up
from tests.servers.cassandra import Cassandra
from tests.servers.server import LOOPBACK
from twofold.read_store.cassandra import CassandraReadStore
from twofold.testing.read_store_rows import progress

ROOT = Path(__file__).parents[2]
EVENTS = 1_500
LONGEST_GAP = 20.0
"""Seconds between two saves when a node is killed: the driver and the other nodes notice it within them."""

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]


@pytest.fixture
def nodes(cassandra_here: None) -> Iterator[list[Cassandra]]:
    with ExitStack() as stack:
        first = stack.enter_context(Cassandra(durable=True, heap="512m"))
        others = [stack.enter_context(Cassandra(first, durable=True, heap="512m")) for _ in range(2)]
        yield [first, *others]


async def _until(position: int, said: "subprocess.asyncio.StreamReader") -> float:
    """Wait until the follower has reached a position; returns the longest time between two lines of its output."""
    longest, at = 0.0, time.monotonic()
    async for line in said:
        longest, at = max(longest, time.monotonic() - at), time.monotonic()
        if int(line) >= position:
            return longest
    raise AssertionError(f"the follower ended before {position}")


async def test_a_follower_goes_on_whichever_node_is_killed(nodes: list[Cassandra]) -> None:
    hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in nodes)
    url = f"cassandra://{hosts}/shop"
    follower = await create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.read_store.cassandra_follower",
        url,
        str(EVENTS),
        "5",
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert follower.stdout is not None
    await _until(100, follower.stdout)
    for n, node in enumerate(nodes):
        reached = 200 + 400 * n
        node.kill()
        gap = await _until(reached, follower.stdout)
        assert gap < LONGEST_GAP
        node.start()
        await _until(reached + 150, follower.stdout)
    await _until(EVENTS, follower.stdout)
    assert await follower.wait() == 0
    log = made_up(EVENTS)
    wanted = await expected(MODEL, log)
    for node in nodes:
        # Of three copies two are asked, whichever is missing.
        node.kill()
        store = await CassandraReadStore.open(url, patience=60.0)
        await store.prepare([MODEL])
        assert await answers(store, MODEL, log) == wanted
        assert (await progress(store, MODEL)).position == EVENTS
        await store.close()
        node.start()

"""Four processes with 64 senders each on one boundary: all get on, none gets a Conflict, no number is missing."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.end_to_end.invoice_node import INVOICES
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.codec import EventCodec
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Wiring
from twofold.write_store.postgres import PostgresWriteStore

ROOT = Path(__file__).parents[2]
NODES, SENDERS = 4, 64


class Node:
    """A process that numbers invoices; `written` is how many it has reported, `senders` how many each sender has."""

    def __init__(self, url: str, name: str) -> None:
        command = [sys.executable, "-m", "tests.end_to_end.invoice_node", url, name, str(SENDERS)]
        self.name = name
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.written = 0
        self.conflicts = 0
        self.senders: list[int] = []

    def say(self) -> None:
        """Let it go on to what comes next: sending, or the end."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def hear(self) -> bool:
        """Take in its next line. False if there is none."""
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        if words and words[0] == "end":
            self.conflicts, self.senders = int(words[1]), [int(word) for word in words[2:]]
        elif words and words[0] != "ready":
            self.written = int(words[0])
        return bool(words)

    async def until_it_has(self, written: int) -> None:
        """Wait until it has written so many in all."""
        while self.written < written:
            assert await asyncio.to_thread(self.hear), f"{self.name} has ended by itself"

    async def end(self) -> None:
        """Let it end, and take in its last words."""
        self.say()
        while await asyncio.to_thread(self.hear):
            continue


@contextmanager
def started(url: str) -> Iterator[list[Node]]:
    """Four nodes that send."""
    nodes = [Node(url, f"n{n}") for n in range(NODES)]
    try:
        for node in nodes:
            assert node.hear()
        for node in nodes:
            node.say()
        yield nodes
    finally:
        for node in nodes:
            node.process.kill()
            node.process.communicate()


async def commands_in_order(url: str) -> list[str]:
    """Who wrote each invoice. AssertionError where the numbers are not 1, 2, 3, …"""
    store = await PostgresWriteStore.open(url, read_only=True)
    codec = EventCodec(Wiring([INVOICES]).events.values())
    found: list[str] = []
    position = 0
    while events := (await store.read(ALL_EVENTS, position, 10_000)).events:
        for recorded in events:
            found.append(codec.decode(recorded).sender)
            assert codec.decode(recorded).number == len(found), f"the invoice at {recorded.position} has another number"
        position = events[-1].position
    await store.close()
    assert len(set(found)) == len(found)
    return found


def fairness(shares: list[int]) -> float:
    """Jain's index: 1 if all are alike, 1/n if one has all."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("each", [600, pytest.param(25_000, marks=pytest.mark.torture)])
async def test_four_nodes_on_one_boundary_all_get_on_and_share_alike(postgres_newest: Postgres, each: int) -> None:
    url = await fresh_log(postgres_newest.dsn)
    with started(url) as nodes:
        await asyncio.gather(*(node.until_it_has(each) for node in nodes))
        await asyncio.gather(*(node.end() for node in nodes))
        assert [node.conflicts for node in nodes] == [0] * NODES
        shares = [share for node in nodes for share in node.senders]
        assert len(await commands_in_order(url)) == sum(shares)
        assert fairness(shares) >= 0.8, shares


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [1, pytest.param(25, marks=pytest.mark.torture)])
async def test_a_node_that_is_stopped_or_killed_does_not_keep_the_others_from_their_turns(
    postgres_newest: Postgres, rounds: int
) -> None:
    url = await fresh_log(postgres_newest.dsn)
    with started(url) as nodes:
        first, second, *others = nodes
        for _ in range(rounds):
            await asyncio.gather(*(node.until_it_has(node.written + 200) for node in nodes))
            first.process.send_signal(signal.SIGSTOP)
            # While it is stopped, perhaps as the holder of the log, all others get on.
            await asyncio.gather(*(node.until_it_has(node.written + 200) for node in nodes[1:]))
            first.process.send_signal(signal.SIGCONT)
        second.process.kill()
        await asyncio.gather(*(node.until_it_has(node.written + 200) for node in (first, *others)))
        await asyncio.gather(*(node.end() for node in (first, *others)))
        assert [node.conflicts for node in (first, *others)] == [0] * 3
        written = await commands_in_order(url)
        for node in (first, *others):
            assert len([each for each in written if each.startswith(node.name)]) == sum(node.senders)
        assert len([each for each in written if each.startswith(second.name)]) >= second.written

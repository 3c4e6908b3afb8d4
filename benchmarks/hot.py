"""Measures commands that meet on one consistency boundary, and nodes that share one log in PostgreSQL."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.bank import DECIDING, bank
from benchmarks.harness import Contestant, Result, compare, result, run
from benchmarks.hot_node import ACCOUNTS, SENDERS, Senders, send
from benchmarks.postgres import durable_server
from tests.write_store.postgres_helpers import fresh_log


async def _opened(folder: object, url: str | None, accounts: list[str], seconds: float, senders: int) -> Senders:
    async with bank(folder, DECIDING, write_store=url, read_store="memory:") as app:
        return await send(app, accounts, seconds, senders)


def _one_process(label: str, log: Callable[[], str | None], rounds: int, seconds: float) -> list[Result]:
    one, many = ["a-0"], [f"a-{n}" for n in range(ACCOUNTS)]
    seen: list[Senders] = []

    def hot(folder: Path) -> float:
        seen.append(run(_opened(folder, log(), one, seconds, SENDERS)))
        return seen[-1].rate

    def spread(folder: Path) -> float:
        return run(_opened(folder, log(), many, seconds, SENDERS)).rate

    figures = compare(rounds, hot=hot, spread=spread)
    name = f"{label}: one boundary, {SENDERS} senders"
    return [
        result(name, figures, "hot", "spread", "/s", must=0.5),
        Result(f"{name}, conflicts answered", sum(s.conflicts for s in seen), 1.0, "one", "", 0.0, less=True),
        Result(f"{name}, Jain", min(s.fairness for s in seen), 1.0, "all alike", "", 0.95),
        Result(f"{name}, longest wait", max(s.longest for s in seen), 1.0, "1 ms", "ms", less=True),
    ]


def hot(rounds: int, seconds: float) -> list[Result]:
    """One boundary against a thousand, on SQLite."""
    return _one_process("SQLite", lambda: None, rounds, seconds)


class Nodes(NamedTuple):
    """What all senders of some nodes got: commands a second, conflicts, Jain's fairness index, longest wait in ms."""

    rate: float
    conflicts: float
    fairness: float
    longest: float


def postgres_hot(rounds: int, seconds: float) -> list[Result]:
    """One boundary against a thousand, and one to four nodes on accounts of their own and on one account."""
    with durable_server() as dsn:
        found = _one_process("PG", lambda: asyncio.run(fresh_log(dsn)), rounds, seconds)
        apart: dict[str, Contestant] = {
            f"of_{nodes}": lambda _, nodes=nodes: _nodes(dsn, nodes, seconds, "own").rate for nodes in (1, 2, 3)
        }
        figures = compare(rounds, **apart)
        for nodes, must, ambition in ((2, None, None), (3, 1.2, 1.5)):
            name = f"PG: {nodes} nodes, disjoint"
            found.append(result(name, figures, f"of_{nodes}", "of_1", "/s", must=must, ambition=ambition))
        seen: list[Nodes] = []

        def together(nodes: int) -> float:
            seen.append(_nodes(dsn, nodes, seconds, "one"))
            return seen[-1].rate

        shared = compare(rounds, of_1=lambda _: together(1), of_2=lambda _: together(2), of_4=lambda _: together(4))
        found.append(result("PG: 2 nodes, one boundary", shared, "of_2", "of_1", "/s"))
        name = "PG: 4 nodes, one boundary"
        found.append(result(name, shared, "of_4", "of_1", "/s", must=0.5, ambition=1.0))
        conflicts, unfair = sum(one.conflicts for one in seen), min(one.fairness for one in seen)
        found.append(Result(f"{name}, conflicts answered", conflicts, 1.0, "one", "", 0.0, less=True))
        found.append(Result(f"{name}, Jain", unfair, 1.0, "all alike", "", 0.8, 0.99))
        found.append(Result(f"{name}, longest wait", max(one.longest for one in seen), 1.0, "1 ms", "ms", less=True))
    return found


def _nodes(dsn: str, nodes: int, seconds: float, accounts: str) -> Nodes:
    """So many nodes, each with its senders, in a process of its own."""
    url = asyncio.run(fresh_log(dsn))
    command = [sys.executable, "-m", "benchmarks.hot_node", url, str(seconds), accounts]
    running = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(nodes)
    ]
    for node in running:
        assert node.stdout is not None
        assert node.stdout.readline() == "ready\n"
    for node in running:
        assert node.stdin is not None
        node.stdin.write("go\n")
        node.stdin.flush()
    each = [Nodes(*(float(word) for word in node.communicate()[0].split())) for node in running]
    squares = sum(node.rate**2 / node.fairness for node in each)
    rate = sum(node.rate for node in each)
    fairness = rate**2 / (nodes * squares)
    return Nodes(rate, sum(node.conflicts for node in each), fairness, max(node.longest for node in each))

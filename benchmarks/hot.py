"""Measures commands that meet on one consistency boundary, and nodes that share one log in PostgreSQL."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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


def postgres_hot(rounds: int, seconds: float) -> list[Result]:
    """One boundary against a thousand, and one to three nodes on accounts of their own and on one account."""
    with durable_server() as dsn:
        found = _one_process("PG", lambda: asyncio.run(fresh_log(dsn)), rounds, seconds)
        apart: dict[str, Contestant] = {
            f"of_{nodes}": lambda _, nodes=nodes: _nodes(dsn, nodes, seconds, "own") for nodes in (1, 2, 3)
        }
        figures = compare(rounds, **apart)
        for nodes, must in ((2, None), (3, 1.2)):
            found.append(result(f"PG: {nodes} nodes, disjoint", figures, f"of_{nodes}", "of_1", "/s", must=must))
        shared = compare(
            rounds, together=lambda _: _nodes(dsn, 2, seconds, "one"), alone=lambda _: _nodes(dsn, 1, seconds, "one")
        )
        found.append(result("PG: 2 nodes, one boundary", shared, "together", "alone", "/s"))
    return found


def _nodes(dsn: str, nodes: int, seconds: float, accounts: str) -> float:
    """Commands a second of so many nodes, each with its senders, in a process of its own."""
    url = asyncio.run(fresh_log(dsn))
    command = [sys.executable, "-m", "benchmarks.hot_node", url, str(seconds), accounts]
    running = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(nodes)
    ]
    for node in running:
        assert node.stdout is not None
        assert node.stdout.readline() == "ready\n"
    rates: list[float] = []
    for node in running:
        assert node.stdin is not None
        node.stdin.write("go\n")
        node.stdin.flush()
    for node in running:
        out, _ = node.communicate()
        rate, conflicts, fairness, longest = (float(word) for word in out.split())
        rates.append(rate)
        said = f"{rate:,.0f}/s, {conflicts:g} conflicts, Jain {fairness:.3f}, longest {longest:.0f} ms"
        sys.stderr.write(f"{nodes} nodes, {accounts}: {said}\n")
    return sum(rates)

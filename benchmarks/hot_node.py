"""Senders of one process: `python -m benchmarks.hot_node URL SECONDS own|one NUMBER` is one node of several."""

import asyncio
import sys
import time
from typing import NamedTuple

from benchmarks.bank import DECIDING, Deposit, bank
from benchmarks.harness import run
from twofold import App
from twofold.errors import Conflict

SENDERS = 64
ACCOUNTS = 1_000


class Senders(NamedTuple):
    """What senders got: commands a second, conflicts they were answered, Jain's fairness index, longest wait in ms."""

    rate: float
    conflicts: int
    fairness: float
    longest: float


async def send(app: App, accounts: list[str], seconds: float, senders: int = SENDERS) -> Senders:
    """Each sender goes through the accounts, one command after the other."""
    done = [0] * senders
    conflicts = 0
    longest = 0.0
    await asyncio.gather(*(app.send(Deposit(account, 1)) for account in accounts))
    start = time.perf_counter()
    end = start + seconds

    async def sender(number: int) -> None:
        nonlocal conflicts, longest
        turn = 0
        while (began := time.perf_counter()) < end:
            turn += 1
            try:
                await app.send(Deposit(accounts[(number + turn * senders) % len(accounts)], 1))
                done[number] += 1
            except Conflict:
                conflicts += 1
            longest = max(longest, time.perf_counter() - began)

    await asyncio.gather(*(sender(number) for number in range(senders)))
    took = time.perf_counter() - start
    fairness = sum(done) ** 2 / (senders * sum(count**2 for count in done) or 1)
    return Senders(sum(done) / took, conflicts, fairness, longest * 1_000)


async def _node(url: str, seconds: float, accounts: str, number: str) -> None:
    own = ["a-0"] if accounts == "one" else [f"a-{number}-{n}" for n in range(ACCOUNTS // 3)]
    async with bank("/nonexistent", DECIDING, write_store=url, read_store="memory:") as app:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        print(*await send(app, own, seconds))


if __name__ == "__main__":
    run(_node(sys.argv[1], float(sys.argv[2]), sys.argv[3], sys.argv[4]))

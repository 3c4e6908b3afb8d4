"""The peer: the same work in the library `eventsourcing`, on SQLite, as its documentation sets it up.

Its projections need a recorder that can be subscribed to, which its SQLite one cannot, so there is nothing to compare
those with here.
"""

import statistics
import threading
import time
from pathlib import Path
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.bank import HISTORY

ACCOUNTS = 320


class Account(Aggregate):
    """The account of `benchmarks.bank`, as that library writes it."""

    @event("Opened")
    def __init__(self) -> None:
        self.balance = 0

    @event("Deposited")
    def deposit(self, amount: int) -> None:
        self.balance += amount


class Bank(Application[UUID]):
    """Loads an account, decides, saves."""

    def deposit(self, account_id: UUID, amount: int) -> int:
        account: Account = self.repository.get(account_id)
        if account.balance + amount > 10**12:
            raise ValueError("too rich")
        account.deposit(amount)
        return self.save(account)[-1].notification.id


def opened(folder: Path) -> Bank:
    """A bank on a SQLite file."""
    return Bank({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / "peer.db")})


def commands(folder: Path, callers: int, seconds: float) -> float:
    """Commands a second, with a thread for each caller, over accounts with as long a past as ours."""
    bank = opened(folder)
    accounts = [_with_history(bank) for _ in range(ACCOUNTS)]
    counts = [0] * callers
    end = time.perf_counter() + seconds

    def caller(number: int) -> None:
        turn = 0
        while time.perf_counter() < end:
            turn += 1
            bank.deposit(accounts[(number + turn * callers) % ACCOUNTS], 1)
            counts[number] = turn

    start = time.perf_counter()
    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    bank.close()
    return sum(counts) / took


def _with_history(bank: Bank) -> UUID:
    account = Account()
    for _ in range(HISTORY - 1):
        account.deposit(1)
    bank.save(account)
    return account.id


def bulk(folder: Path, batches: int, batch: int) -> float:
    """Events a second, so many saved at once."""
    bank = opened(folder)
    account = Account()
    start = time.perf_counter()
    for _ in range(batches):
        for _ in range(batch):
            account.deposit(1)
        bank.save(account)
    took = time.perf_counter() - start
    bank.close()
    return batches * batch / took


def load(folder: Path, events: int, times: int) -> float:
    """Milliseconds to load an account of so many events."""
    bank = opened(folder)
    account = Account()
    for _ in range(events - 1):
        account.deposit(1)
    bank.save(account)
    waits: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        bank.repository.get(account.id)
        waits.append((time.perf_counter() - start) * 1_000)
    bank.close()
    return statistics.median(waits)

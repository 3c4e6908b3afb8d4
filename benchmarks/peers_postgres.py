"""The peer on PostgreSQL: `eventsourcing`, with aggregates and with dynamic consistency boundaries.

`python -m benchmarks.peers_postgres NAME DSN …` runs one contestant and prints its figure: each has a clean process,
since threads of one and imports of the other slow each other down.
"""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
from eventsourcing.dcb.application import DCBApplication
from eventsourcing.dcb.domain import EnduringObject
from eventsourcing.dcb.msgpack import Decision, InitialDecision
from eventsourcing.domain import event
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from psycopg.sql import SQL, Identifier

from benchmarks.bank import HISTORY
from benchmarks.peers import ACCOUNTS, Account, Bank


class DcbAccount(EnduringObject[Decision, str]):
    """The same account as an enduring object."""

    class Opened(InitialDecision):
        """The first event."""

        dcbaccount_id: str

    class Deposited(Decision):
        """A deposit."""

        amount: int

    @event(Opened)
    def __init__(self) -> None:
        self.balance = 0

    @event(Deposited)
    def deposit(self, amount: int) -> None:
        self.balance += amount


def environment(dsn: str, module: str, **given: str) -> dict[str, str]:
    """What that library is configured with: a database of its own on the server of `dsn`."""
    parts = urlsplit(dsn)
    database = f"peer_{uuid4().hex[:8]}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"create database {database}".encode())
    return {
        "PERSISTENCE_MODULE": module,
        "POSTGRES_DBNAME": database,
        "POSTGRES_HOST": parts.hostname or "",
        "POSTGRES_PORT": str(parts.port or 5432),
        "POSTGRES_USER": parts.username or "",
        "POSTGRES_PASSWORD": parts.password or "none",
        "MAPPER_TOPIC": "eventsourcing.dcb.msgpack:MessagePackMapper" if "dcb" in module else "",
        **given,
    }


def opened(dsn: str, **given: str) -> Bank:
    """A bank of aggregates."""
    found = {name: value for name, value in environment(dsn, "eventsourcing.postgres", **given).items() if value}
    return Bank(found)


class DcbBank(DCBApplication):
    """A bank of enduring objects."""

    def deposit(self, account_id: str, amount: int) -> int:
        """Load, decide, save."""
        account = self.repository.get(account_id)
        assert isinstance(account, DcbAccount)
        if account.balance + amount > 10**12:
            raise ValueError("too rich")
        account.deposit(amount)
        return self.repository.save(account)


def commands(dsn: str, callers: int, seconds: float, threads: int, **given: str) -> float:
    """Commands a second from so many callers, served by at most `threads` threads."""
    bank = opened(dsn, **given)
    accounts = []
    for _ in range(ACCOUNTS):
        account = Account()
        for _ in range(HISTORY - 1):
            account.deposit(1)
        bank.save(account)
        accounts.append(account.id)
    rate = _drive(lambda i: bank.deposit(accounts[i], 1), min(callers, threads), seconds)
    bank.close()
    return rate


def dcb_commands(dsn: str, callers: int, seconds: float, threads: int, **given: str) -> float:
    """The same with dynamic consistency boundaries."""
    with DcbBank(environment(dsn, "eventsourcing.dcb.postgres_tt", **given)) as bank:
        accounts = []
        for _ in range(ACCOUNTS):
            account = DcbAccount()
            for _ in range(HISTORY - 1):
                account.deposit(1)
            bank.repository.save(account)
            accounts.append(account.id)
        return _drive(lambda i: bank.deposit(accounts[i], 1), min(callers, threads), seconds)


def _drive(deposit: Callable[[int], object], threads: int, seconds: float) -> float:
    counts = [0] * threads
    end = time.perf_counter() + seconds

    def caller(number: int) -> None:
        turn = 0
        while time.perf_counter() < end:
            turn += 1
            deposit((number + turn * threads) % ACCOUNTS)
            counts[number] = turn

    start = time.perf_counter()
    running = [threading.Thread(target=caller, args=(number,)) for number in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    return sum(counts) / (time.perf_counter() - start)


def bulk(dsn: str, batches: int, batch: int) -> float:
    """Events a second, so many saved at once."""
    bank = opened(dsn)
    account = Account()
    start = time.perf_counter()
    for _ in range(batches):
        for _ in range(batch):
            account.deposit(1)
        bank.save(account)
    took = time.perf_counter() - start
    bank.close()
    return batches * batch / took


def load(dsn: str, events: int, times: int) -> float:
    """Milliseconds to load an account of so many events."""
    bank = opened(dsn)
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


def dcb_load(dsn: str, events: int, times: int) -> float:
    """The same with dynamic consistency boundaries."""
    with DcbBank(environment(dsn, "eventsourcing.dcb.postgres_tt")) as bank:
        account = DcbAccount()
        for _ in range(events - 1):
            account.deposit(1)
        bank.repository.save(account)
        waits: list[float] = []
        for _ in range(times):
            start = time.perf_counter()
            bank.repository.get(account.id)
            waits.append((time.perf_counter() - start) * 1_000)
        return statistics.median(waits)


class Balances(PostgresTrackingRecorder):
    """The rows of `benchmarks.bank`, each upserted in one transaction with the position of its event."""

    def __init__(self, datastore: PostgresDatastore, **given: Any) -> None:
        super().__init__(datastore, **given)
        table = Identifier(datastore.schema), Identifier("balances")
        self.sql_create_statements.append(
            SQL("create table if not exists {}.{} (account uuid primary key, balance bigint, deposits bigint)").format(
                *table
            )
        )
        self.upsert = SQL(
            "insert into {}.{} as b values (%s, %s, %s) on conflict (account) do update"
            " set balance = b.balance + excluded.balance, deposits = b.deposits + excluded.deposits"
        ).format(*table)
        self.select = SQL("select balance, deposits from {}.{} where account = %s").format(*table)

    def add(self, account: UUID, amount: int, deposits: int, tracking: Tracking) -> None:
        """One event's change."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(self.upsert, (account, amount, deposits), prepare=True)

    def of(self, account: UUID) -> Any:
        """The row of an account."""
        with self.datastore.get_connection() as connection, connection.cursor() as cursor:
            return cursor.execute(self.select, (account,), prepare=True).fetchone()


class KeepBalances(Projection[Balances]):
    """Follows the bank."""

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        """Tracked in any case: an opening makes the row, a deposit changes it."""
        amount = getattr(domain_event, "amount", 0)
        self.view.add(domain_event.originator_id, amount, int(amount > 0), tracking)


def _following(env: dict[str, str]) -> "ProjectionRunner[Bank, Balances]":
    return ProjectionRunner(application_class=Bank, projection_class=KeepBalances, view_class=Balances, env=env)


def catch_up(dsn: str, events: int, keys: int) -> float:
    """Events a second, from the log into rows."""
    env = {name: value for name, value in environment(dsn, "eventsourcing.postgres").items() if value}
    bank = Bank(env)
    last = 0
    for _ in range(keys):
        account = Account()
        for _ in range(events // keys - 1):
            account.deposit(1)
        last = bank.save(account)[-1].notification.id
    bank.close()
    start = time.perf_counter()
    with _following(env) as runner:
        runner.wait(last, timeout=600)
        return events / (time.perf_counter() - start)


def visible(dsn: str, times: int) -> float:
    """Milliseconds from sending a command to its row, in the median.

    Looked for every half a millisecond: its own `wait` looks ten times a second only.
    """
    env = {name: value for name, value in environment(dsn, "eventsourcing.postgres").items() if value}
    waits: list[float] = []
    with _following(env) as runner:
        bank = runner.app
        account = Account()
        bank.save(account)
        for number in range(1, times + 1):
            start = time.perf_counter()
            bank.deposit(account.id, 1)
            while (row := runner.view.of(account.id)) is None or row["deposits"] < number:
                time.sleep(0.000_5)
            waits.append((time.perf_counter() - start) * 1_000)
            time.sleep(0.002)
    return statistics.median(waits)


CONTESTANTS: dict[str, Callable[..., float]] = {
    # As its documentation has it: a pool of 5 connections (and 10 more), a thread for each caller.
    "commands": lambda dsn, callers, seconds: commands(
        dsn, int(callers), float(seconds), 1_000, POSTGRES_MAX_WAITING="64"
    ),
    # What was found to be its best: stored functions, no more connections than the server has use for, 8 threads.
    "commands-best": lambda dsn, callers, seconds: commands(
        dsn, int(callers), float(seconds), 8,
        POSTGRES_ENABLE_DB_FUNCTIONS="y", POSTGRES_POOL_SIZE="8", POSTGRES_MAX_OVERFLOW="0", POSTGRES_MAX_WAITING="64",
    ),
    "dcb-commands": lambda dsn, callers, seconds: dcb_commands(
        dsn, int(callers), float(seconds), 8, POSTGRES_POOL_SIZE="8", POSTGRES_MAX_WAITING="64"
    ),
    "bulk": lambda dsn, batches, batch: bulk(dsn, int(batches), int(batch)),
    "load": lambda dsn, events, times: load(dsn, int(events), int(times)),
    "catch-up": lambda dsn, events, keys: catch_up(dsn, int(events), int(keys)),
    "visible": lambda dsn, times: visible(dsn, int(times)),
    "dcb-load": lambda dsn, events, times: dcb_load(dsn, int(events), int(times)),
}  # fmt: skip


def contestant(name: str, dsn: str, *given: float) -> float:
    """The figure of one contestant, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peers_postgres", name, dsn, *map(str, given)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    print(CONTESTANTS[sys.argv[1]](*sys.argv[2:]))

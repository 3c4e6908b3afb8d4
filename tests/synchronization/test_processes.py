"""Nodes as processes on real servers: one is paused beyond its lease, one is killed, and nothing goes wrong."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count, Totals, add_up
from tests.servers.cassandra import Cassandra, fresh_keyspace
from tests.servers.mongodb import ReplicaSet, fresh_database
from tests.servers.postgres import Postgres, fresh_schema
from tests.synchronization.cluster_helpers import counting_app, totals
from tests.write_store.postgres_helpers import fresh_log
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS

LEASE = 2.0
ROOT = Path(__file__).parents[2]


@contextmanager
def node(write_store: str, read_store: str) -> Iterator["subprocess.Popen[str]"]:
    """A node in a process of its own, killed at the end if it still runs."""
    command = [sys.executable, "-m", "tests.synchronization.node_process", write_store, read_store, str(LEASE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "following\n"
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


@asynccontextmanager
async def onlooker(write_store: str, read_store: str) -> AsyncIterator[App]:
    """An app that sends and asks, and follows for nothing."""
    app = counting_app([totals()], write_store=write_store, read_store=read_store, lease_seconds=LEASE)
    await app.start(maintenance=())
    try:
        yield app
    finally:
        await app.stop()


async def owners(app: App) -> list[str | None]:
    """Who follows for each partition."""
    (follower,) = (await app.status()).followers
    return sorted((share.owner for share in follower.partitions), key=str)


async def owned_by(app: App, *processes: "subprocess.Popen[str]") -> bool:
    pids = {owner.rpartition(":")[2] for owner in await owners(app) if owner is not None}
    return pids == {str(process.pid) for process in processes} and None not in await owners(app)


async def folded(app: App) -> dict[str, Any]:
    running = app._running
    assert running is not None
    rows: dict[str, Any] = {}
    for recorded in (await running.write_store.read(ALL_EVENTS)).events:
        event = app.events.decode(recorded)
        for counter in dict.fromkeys(event.counters):
            rows[counter] = add_up(rows.get(counter), event, counter)
    return {counter: row for counter, row in rows.items() if row is not None}


async def pause_kill_and_compare(write_store: str, read_store: str) -> None:
    """The whole story. `Total.trail` depends on the order of events, so an event out of order or twice shows."""
    async with onlooker(write_store, read_store) as app:
        with node(write_store, read_store) as paused, node(write_store, read_store) as killed:
            await until(lambda: owned_by(app, paused, killed), "shared out")
            done, sent = asyncio.Event(), 0

            async def writes() -> None:
                nonlocal sent
                while not done.is_set():
                    some = [f"c{sent % 17}", f"c{sent * 7 % 31}"]
                    await app.send(Count(some, sent % 50))
                    sent += 1

            writing = asyncio.create_task(writes())
            paused.send_signal(signal.SIGSTOP)
            await until(lambda: owned_by(app, killed), "taken over from the one that is paused")
            paused.send_signal(signal.SIGCONT)
            await until(lambda: owned_by(app, paused, killed), "shared out with the one that woke up")
            killed.kill()
            await until(lambda: owned_by(app, paused), "taken over from the one that is dead")
            with node(write_store, read_store) as joined:
                await until(lambda: owned_by(app, paused, joined), "shared out with the one that came")
                await until(lambda: sent > 50, "enough is written")
                done.set()
                await writing
                head = (await app.log()).head
                answer = await app.ask(Totals(), position=app.token(head), timeout=30)
                assert {row.counter: row for row in answer.value} == await folded(app)
                assert (await app.status()).health.problems == ()


async def test_on_postgresql(postgres_newest: Postgres) -> None:
    write_store = await fresh_log(postgres_newest.dsn)
    await pause_kill_and_compare(write_store, f"{postgres_newest.dsn}?schema={fresh_schema()}")


async def test_on_mongodb(postgres_newest: Postgres, mongodb: ReplicaSet) -> None:
    await pause_kill_and_compare(await fresh_log(postgres_newest.dsn), mongodb.url_of(fresh_database()))


async def test_on_cassandra(postgres_newest: Postgres, cassandra: Cassandra) -> None:
    await pause_kill_and_compare(await fresh_log(postgres_newest.dsn), cassandra.url(fresh_keyspace()))

"""Several nodes in one process: apps over the same two stores in memory, each as if it were alone."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Ignored, add_up, all_totals, count, total_of
from twofold.app import App
from twofold.domain.module import Module
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection
from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.port import Change
from twofold.settings import Settings
from twofold.synchronization.work_unit import WorkUnit
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome

LEASE = 0.5


class SharedLog(MemoryWriteStore):
    """A log that outlives the apps that use it, and that others may write to."""

    def __init__(self) -> None:
        super().__init__()
        self.exclusive = False
        self.silent: set[str] = set()

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        return await super().append(batch)

    async def close(self) -> None:
        return None


class SharedViews(MemoryReadStore):
    """Read models that outlive the apps, and count who saved what."""

    def __init__(self) -> None:
        super().__init__()
        self.saves: list[Change] = []

    async def save(self, change: Change) -> None:
        await super().save(change)
        self.saves.append(change)

    async def close(self) -> None:
        return None


class Cluster:
    """Apps over the same stores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = SharedLog()
        self.read_store = SharedViews()

        async def write_store(*_: Any, **__: Any) -> SharedLog:
            return self.log

        async def read_store(*_: Any, **__: Any) -> SharedViews:
            return self.read_store

        monkeypatch.setattr("twofold.role_stores.open_write_store", write_store)
        monkeypatch.setattr("twofold.role_stores.open_read_store", read_store)

    def views_apart(self) -> "SharedViews":
        """Let nodes that start from now on have another read store."""
        self.read_store = SharedViews()
        return self.read_store

    def app(
        self, projections: Sequence[Projection] | None = None, policies: Sequence[Policy] = (), **settings: Any
    ) -> App:
        """A node that has not started."""
        return counting_app(projections or [totals()], policies, **settings)

    @asynccontextmanager
    async def node(self, **settings: Any) -> AsyncIterator[App]:
        """A node that runs."""
        async with self.app(**settings) as app:
            yield app


def counting_app(projections: Sequence[Projection], policies: Sequence[Policy] = (), **settings: Any) -> App:
    """An app of the counters, with short leases."""
    module = Module(
        "counters",
        events=[Counted, Ended, Ignored],
        decisions=[count],
        projections=projections,
        queries=[total_of, all_totals],
        policies=policies,
    )
    return App(
        module, settings=Settings(**({"poll_seconds": 0.02, "lease_seconds": LEASE, "page_events": 20} | settings))
    )


def totals(partitions: int = 4, **given: Any) -> Projection:
    """The projection of the counters, in several partitions."""
    return Projection("totals", add_up, key=CounterId, partitions=partitions, **given)


def follows(app: App) -> set[str]:
    """The partitions that a node follows for."""
    running = app._running
    return set() if running is None else {unit.partition_name for unit in running.synchronization.supervisor.workers}


def shares(app: App) -> dict[WorkUnit, Any]:
    """The workers of a node by share."""
    running = app._running
    assert running is not None
    return running.synchronization.supervisor.workers


async def happen(app: App, commands: int, keys: int = 40, start: int = 0) -> None:
    """Some commands, each on two counters."""
    for n in range(start, start + commands):
        await app.send(Count([f"c{n % keys}", f"c{n * 7 % keys}"], n % 9 + 1))


async def rows(cluster: Cluster) -> dict[str, Any]:
    """The rows of the generation that was built last."""
    (*_, at) = await cluster.read_store.checkpoints()
    found = await cluster.read_store.raw_rows(at.name, at.generation, "", 10_000)
    return {key: kept.row for key, kept in found}


async def folded(cluster: Cluster, app: App) -> dict[str, Any]:
    """What they must be: a plain fold of the whole log, made here."""
    made: dict[str, Any] = {}
    for recorded, _ in cluster.log._events:
        event = app.events.decode(recorded)
        for counter in dict.fromkeys(event.counters):
            made[counter] = add_up(made.get(counter), event, counter)
    return {key: msgspec.to_builtins(row) for key, row in made.items() if row is not None}

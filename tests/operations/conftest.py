"""Fixtures for audits and comparisons: an app, a log in memory, and an empty read store of each kind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.sample_domains.counters import counters
from tests.servers.cassandra import fresh_keyspace
from tests.servers.mongodb import fresh_database
from tests.servers.postgres import fresh_schema
from twofold.app import App
from twofold.read_store.port import ReadStore
from twofold.stores import open_read_store
from twofold.world import RealWorld
from twofold.write_store.memory import MemoryWriteStore


@pytest.fixture(params=["memory", "sqlite", "postgresql", "mongodb", "cassandra"])
async def read_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReadStore]:
    """An empty read store of each kind."""
    match request.param:
        case "memory":
            url = "memory:"
        case "sqlite":
            url = f"sqlite:///{tmp_path}/views.db"
        case "postgresql":
            url = f"{request.getfixturevalue('postgres_newest').dsn}?schema={fresh_schema()}"
        case "mongodb":
            url = str(request.getfixturevalue("mongodb").url_of(fresh_database()))
        case _:
            url = str(request.getfixturevalue("cassandra").url(fresh_keyspace()))
    store = await open_read_store(url, RealWorld())
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
def log() -> MemoryWriteStore:
    """An empty log in memory."""
    return MemoryWriteStore()


@pytest.fixture
def app() -> App:
    """The app of the counters."""
    return App(counters())

"""The MongoDB that all tests share: started when a test first needs it, stopped at the end of the run."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.fixtures import do_without
from tests.servers.mongodb import HOW_TO_GET_ONE, ReplicaSet, fresh_database, installed


@pytest.fixture(scope="session")
def mongod_here() -> Path:
    """The program, for servers of one's own."""
    return program()


@pytest.fixture(scope="session")
def mongodb(mongod_here: Path) -> Iterator[ReplicaSet]:
    """A running replica set of one node. It is everybody's: take a `mongodb_url`, or a `fresh_database()`."""
    with ReplicaSet(mongod_here, fast=True) as servers:
        yield servers


@pytest.fixture
def mongodb_url(mongodb: ReplicaSet) -> str:
    """The URL of a database that nobody has used. What is in it goes with the server."""
    return mongodb.url_of(fresh_database())


@pytest.fixture
def unclosed_collected() -> Iterator[None]:
    """Collects the sockets that the driver leaves open where it is broken off, as when it is closed while it connects.

    For tests that let warnings of that kind pass: else they would come up in whatever test runs later.
    """
    yield
    gc.collect()


def program() -> Path:
    """The program. Where there is none the test is skipped, or in CI failed."""
    found = installed()
    if found is None:
        do_without(f"no mongod: {HOW_TO_GET_ONE}")
    return found

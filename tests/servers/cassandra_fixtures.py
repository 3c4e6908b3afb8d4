"""The Cassandra that all tests share: started when a test first needs it, stopped at the end of the run."""

from collections.abc import Iterator

import pytest

from tests.servers.cassandra import Cassandra, missing
from tests.servers.fixtures import do_without


@pytest.fixture(scope="session")
def cassandra_here() -> None:
    """For tests that start a node of their own: skipped, or in CI failed, where none can be had."""
    if reason := missing():
        do_without(reason)


@pytest.fixture(scope="session")
def cassandra(cassandra_here: None) -> Iterator[Cassandra]:
    """A running node with fast settings. It is everybody's: take a `fresh_keyspace()`, and do not stop it."""
    with Cassandra() as node:
        yield node

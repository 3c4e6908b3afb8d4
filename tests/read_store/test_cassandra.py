"""The read store in Cassandra keeps the promises of every read store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.servers.cassandra import Cassandra, fresh_keyspace
from twofold.read_store.cassandra import CassandraReadStore
from twofold.read_store.port import ReadStore
from twofold.testing.read_store_contract import ReadStoreContract


class TestCassandraReadStore(ReadStoreContract):
    transactional = False

    @pytest.fixture(autouse=True)
    def on(self, cassandra: Cassandra) -> None:
        self.server = cassandra

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ReadStore]:
        # Dropping a keyspace takes a second, and the server is thrown away: it stays.
        store = await CassandraReadStore.open(self.server.url(fresh_keyspace()), patience=60.0)
        try:
            yield store
        finally:
            await store.close()

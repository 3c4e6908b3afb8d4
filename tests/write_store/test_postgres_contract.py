"""The log in PostgreSQL keeps the promises of every write store, on each version of the server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.testing.write_store_contract import WriteStoreContract
from twofold.write_store.port import WriteStore
from twofold.write_store.postgres import PostgresWriteStore


class TestPostgresWriteStore(WriteStoreContract):
    # Racers on several nodes have a test of their own.
    rounds = 60

    @pytest.fixture(autouse=True)
    def server(self, postgres: Postgres) -> None:
        self.dsn = postgres.dsn

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[WriteStore]:
        store = await PostgresWriteStore.open(await fresh_log(self.dsn))
        try:
            yield store
        finally:
            await store.close()

"""The read store in PostgreSQL keeps the promises of every read store, on each version of the server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.servers.postgres import Postgres, fresh_schema
from twofold.read_store.port import ReadStore
from twofold.read_store.postgres import PostgresReadStore
from twofold.testing.read_store_contract import ReadStoreContract


class TestPostgresReadStore(ReadStoreContract):
    @pytest.fixture(autouse=True)
    def server(self, postgres: Postgres) -> None:
        self.dsn = postgres.dsn

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[ReadStore]:
        store = await PostgresReadStore.open(f"{self.dsn}?schema={fresh_schema()}", snapshots=4)
        try:
            yield store
        finally:
            await store.close()

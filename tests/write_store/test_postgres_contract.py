"""The log in PostgreSQL keeps the promises of every write store, on each version of the server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import emptied, fresh_log
from twofold.domain.event_query import EventQuery
from twofold.testing.write_store_contract import WriteStoreContract
from twofold.write_store.port import Append, WriteStore
from twofold.write_store.postgres import PostgresWriteStore


@pytest.mark.timeout(600)  # 120 histories of some 200 calls each
class TestPostgresWriteStore(WriteStoreContract):
    # One store writes over one connection: each round is as the one before. Racers on several nodes have another test.
    rounds = 15
    url: str | None = None

    @pytest.fixture(autouse=True)
    def server(self, postgres: Postgres) -> None:
        self.dsn = postgres.dsn

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[WriteStore]:
        store = await PostgresWriteStore.open(self.url or await fresh_log(self.dsn))
        try:
            yield store
        finally:
            await store.close()

    async def _relive(self, history: list[list[Append]], wanted: EventQuery) -> None:
        self.url = await (emptied(self.url) if self.url else fresh_log(self.dsn))
        await super()._relive(history, wanted)

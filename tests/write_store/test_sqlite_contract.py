"""The log in a SQLite file keeps the promises of every write store."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from twofold.testing.write_store_contract import WriteStoreContract
from twofold.write_store.port import WriteStore
from twofold.write_store.sqlite import SqliteWriteStore


class TestSqliteWriteStore(WriteStoreContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[WriteStore]:
        with tempfile.TemporaryDirectory() as folder:
            store = SqliteWriteStore(Path(folder) / "log.db")
            try:
                yield store
            finally:
                await store.close()

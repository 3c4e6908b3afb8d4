"""The log in memory keeps the promises of every write store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twofold.testing.write_store_contract import WriteStoreContract
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import WriteStore


class TestMemoryWriteStore(WriteStoreContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[WriteStore]:
        store = MemoryWriteStore()
        try:
            yield store
        finally:
            await store.close()

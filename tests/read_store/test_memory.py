"""The read store in memory keeps the promises of every read store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from twofold.read_store.memory import MemoryReadStore
from twofold.read_store.port import ReadStore
from twofold.testing.read_store_contract import ReadStoreContract


class TestMemoryReadStore(ReadStoreContract):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ReadStore]:
        store = MemoryReadStore()
        yield store
        await store.close()

"""A log in PostgreSQL as it is at one moment, read beside its writers."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from twofold.postgres_server import PostgresAddress
from twofold.write_store.port import LogIdentity
from twofold.write_store.postgres import functions
from twofold.write_store.postgres.connections import not_migrated
from twofold.write_store.postgres.moving import PostgresContent, connected


class PostgresLogSnapshot(PostgresContent):
    """The content of a log within one transaction for reading."""

    identity = LogIdentity("", 0)
    head = 0
    chain = b""
    schema = 0

    async def begin(self) -> None:
        """Read which history it is, and its head: the snapshot is taken with that."""
        states = await self._call(functions.STATE, 0)
        if not states:
            raise not_migrated(self._address)
        ((name, epoch, self.head, self.schema, _, epochs, afters, self.chain, _),) = states
        self.identity = LogIdentity(name, epoch, tuple(zip(epochs, afters, strict=True)))


@asynccontextmanager
async def reading_snapshot(address: PostgresAddress) -> AsyncGenerator[PostgresLogSnapshot]:
    """The log at an address, in a transaction for reading that lasts as long as this context. It locks nothing."""
    async with connected(address) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        snapshot = PostgresLogSnapshot(connection, address)
        await snapshot.begin()
        yield snapshot

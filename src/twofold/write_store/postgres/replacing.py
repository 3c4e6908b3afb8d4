"""Replacing a log in PostgreSQL by another history, in one transaction."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from twofold.domain.events import Position
from twofold.errors import Conflict
from twofold.postgres_server import PostgresAddress
from twofold.write_store.port import LogIdentity
from twofold.write_store.postgres.content import connected
from twofold.write_store.postgres.copying import PostgresLogCopy, begin_replacement

_TABLES = ("epochs", "event_types", "events", "event_tags", "commands", "rows")
_GUARDED = ("epochs", "events", "event_tags")
"""The tables whose triggers refuse every change."""


@asynccontextmanager
async def replacing(
    address: PostgresAddress, identity: LogIdentity, expected: Position
) -> AsyncGenerator[PostgresLogCopy]:
    """A copy to be filled in place of the log that is there, in one transaction that ends with this context.

    Readers and writers of the old log wait meanwhile. Then they find that its epoch has ended.
    """
    schema = address.schema
    async with connected(address) as connection, connection.transaction():
        present = await connection.fetchval(f"select position from {schema}.log_head for update")
        if present != expected:
            raise Conflict(
                f"The log at {address.shown} was written meanwhile, up to position {present}. Nothing was restored. "
                "Stop the app, then repeat."
            )
        for table in _GUARDED:
            await connection.execute(f"alter table {schema}.{table} disable trigger refuse_change")
        await connection.execute(f"truncate {', '.join(f'{schema}.{table}' for table in _TABLES)} restart identity")
        for table in _GUARDED:
            await connection.execute(f"alter table {schema}.{table} enable trigger refuse_change")
        copy = await begin_replacement(connection, address, identity.log)
        yield copy
        await copy.complete(identity)

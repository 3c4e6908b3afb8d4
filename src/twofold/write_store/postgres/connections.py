"""Connections to a log in PostgreSQL that several callers share, and calls of its SQL functions over them."""

from collections.abc import Callable, Sequence
from typing import Any

from twofold.errors import WiringError
from twofold.postgres_server import Connection, PostgresAddress, PostgresConnections
from twofold.world import World
from twofold.write_store.postgres.functions import Caller, Function, ResultRow


def not_migrated(address: PostgresAddress) -> WiringError:
    """The error for a database without a log, or with one of an older schema."""
    return WiringError(
        f"There is no log at {address.shown}, or its schema is old. Run `twofold migrate --write-store URL` as a role "
        "that may create schemas."
    )


class LogConnections(PostgresConnections):
    """Connections to a log, of which each caller has one for a single call."""

    def __init__(self, address: PostgresAddress, world: World, size: int, patience: float) -> None:
        super().__init__(address, world, size, patience)
        self._caller = Caller(address.schema, plain=address.pgbouncer)

    async def call(
        self, function: Function, *arguments: Any, check: Callable[[Sequence[ResultRow]], None] | None = None
    ) -> Sequence[ResultRow]:
        """The rows a function returns. Failures that pass are retried for `patience` seconds.

        `check` raises ConnectionError where the rows do not answer this call: then the connection is not used again.
        Every function may be repeated; the call must not be cancelled. Raises asyncpg's errors and OSError.
        """

        async def ask(connection: Connection) -> Sequence[ResultRow]:
            rows = await self._caller.call(connection, function, *arguments)
            if check is not None:
                check(rows)
            return rows

        return await self.run(ask)

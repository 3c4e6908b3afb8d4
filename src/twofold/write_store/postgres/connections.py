"""Connections to a log in PostgreSQL that several callers share, and calls of its SQL functions over them."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from twofold.errors import WiringError
from twofold.postgres_server import LOST, Connection, PostgresAddress, PostgresConnections, kept_if_sound
from twofold.world import World
from twofold.write_store.postgres.functions import APPEND, RESERVE, Caller, Function, ResultRow

log = logging.getLogger(__name__)

Check = Callable[[Sequence[ResultRow]], None]

_LONGEST_IDLE = 1_000
"""Milliseconds after which the server ends a reservation if nothing comes from its holder."""


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

    async def call(self, function: Function, *arguments: Any, check: Check | None = None) -> Sequence[ResultRow]:
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

    async def reserve(self, *arguments: Any) -> "Reservation":
        """The log, reserved on one of the connections. `arguments` are those of `read`. Fails as `call` does."""
        rows: Sequence[ResultRow] = ()

        async def begin(connection: Connection) -> None:
            nonlocal rows
            await connection.execute("begin isolation level read committed")
            rows = await self._caller.call(connection, RESERVE, _LONGEST_IDLE, *arguments)

        return Reservation(self, await self.hold(begin), rows)

    async def append_held(self, connection: Connection, arguments: Sequence[Any], check: Check) -> Sequence[ResultRow]:
        """The rows that `append` returns in the transaction that is open on a held connection, once it is committed."""
        with kept_if_sound(connection, self._patience):
            rows = await self._caller.call(connection, APPEND, *arguments)
            check(rows)
            await connection.execute("commit")
            if connection.is_closed():
                raise ConnectionError("the connection ended with the answer")
            return rows

    async def roll_back(self, connection: Connection) -> None:
        """Return a held connection after the end of its transaction, whatever state that is in."""
        try:
            with kept_if_sound(connection, self._patience):
                await connection.execute("rollback")
        except (*LOST, asyncpg.PostgresError):
            connection.terminate()
        finally:
            self.give_back(connection)


class Reservation:
    """The log, reserved in a transaction: nobody else appends until it ends.

    `rows` is what `read` has answered in it. It ends by its one append, by `end`, or with its connection.
    """

    def __init__(self, connections: LogConnections, connection: Connection, rows: Sequence[ResultRow]) -> None:
        self.rows = rows
        self._connections = connections
        self._connection: Connection | None = connection

    async def append(self, arguments: Sequence[Any], check: Check) -> Sequence[ResultRow] | None:
        """What `append` returns. None if it has ended before, or is lost: then the append may have been written."""
        connection = self._connection
        if connection is None:
            return None
        try:
            rows = await self._connections.append_held(connection, arguments, check)
        except (*LOST, asyncpg.PostgresError) as error:
            log.warning("The log was reserved, and the reservation is lost: %s", error or type(error).__name__)
            return None
        else:
            self._connection = None
            self._connections.give_back(connection)
            return rows
        finally:
            await self.end()

    async def end(self) -> None:
        """End it without an append, unless it has ended."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._connections.roll_back(connection)

"""The connections of a read store: some for followers, one for each open snapshot, and what is done over them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

from twofold.errors import WiringError
from twofold.postgres_server import LOST, Connection, PostgresAddress, PostgresConnections, is_missing
from twofold.read_store.postgres.errors import DRIVER_ERRORS, translated, translated_at_start
from twofold.read_store.postgres.rows_columns import Statement
from twofold.world import World

T = TypeVar("T")

PLANS = {
    "enable_seqscan": "off",
    "enable_sort": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
"""Statements of followers, and those for one row, use the primary key, however small the table was when planned."""

_FOLLOWERS = 4
_LOOKUPS = 8
"""Connections for statements that read one row by its key."""
_LONGEST_MAINTENANCE = 3_600.0
_LARGE = 6
"""How many times `patience` a change may take: what is stopped too early would be stopped at every retry."""
_OLDEST = 13


class PostgresReadConnections:
    """Statements to one schema. The calls must not be cancelled. They raise errors of Twofold.

    `longest` is how many seconds a snapshot may be open.
    """

    def __init__(
        self,
        address: PostgresAddress,
        world: World,
        *,
        read_only: bool,
        snapshots: int,
        longest: float,
        patience: float,
    ) -> None:
        self.address = address
        self.read_only = read_only
        self.longest = longest
        self.patience = patience
        plans = {**PLANS, "default_transaction_read_only": "on"} if read_only else PLANS
        self.followers = PostgresConnections(address, world, _FOLLOWERS, patience, plans)
        self.lookups = PostgresConnections(address, world, min(snapshots, _LOOKUPS), patience, plans)
        self.snapshots = PostgresConnections(address, world, snapshots, patience)

    async def check_server(self) -> None:
        """WiringError where the server is too old, or the database has another encoding."""
        version, encoding = await self.maintain(_version_and_encoding, longest=None)
        if version < _OLDEST or encoding != "UTF8":
            raise WiringError(
                f"Read models need PostgreSQL {_OLDEST} or newer and a database in UTF8; {self.address.shown} is "
                f"{version} in {encoding}."
            )

    async def run(self, work: Callable[[Connection], Awaitable[T]], longest: float | None = None) -> T:
        """The result of `work`, which may be repeated."""
        try:
            return await self.followers.run(work, longest)
        except DRIVER_ERRORS as error:
            raise translated(self.address, error) from error

    async def maintain(
        self, work: Callable[[Connection], Awaitable[T]], longest: float | None = _LONGEST_MAINTENANCE
    ) -> T:
        """The result of `work`, which may take long. WiringError for what the role must not do."""
        try:
            return await self.followers.run(work, longest)
        except DRIVER_ERRORS as error:
            raise translated_at_start(self.address, error) from error

    async def change(self, work: Callable[[Connection], Awaitable[T]]) -> tuple[bool, T]:
        """The result of `work`, and whether an earlier attempt may have been carried out, whose answer was lost."""
        in_doubt = False

        async def once(connection: Connection) -> tuple[bool, T]:
            nonlocal in_doubt
            before, in_doubt = in_doubt, True
            try:
                return before, await work(connection)
            except asyncpg.PostgresError as error:
                if not isinstance(error, LOST):
                    in_doubt = before
                raise

        return await self.run(once, _LARGE * self.patience)

    async def fetch(self, statement: Statement) -> Sequence[Any]:
        return await self.run(lambda connection: self.fetch_over(connection, statement))

    async def look_up(self, statement: Statement) -> Sequence[Any]:
        """The records of one statement for one row. It does not wait for followers. Not behind a pooler."""
        sql, arguments = statement
        try:
            return await self.lookups.run(lambda connection: connection.fetch(sql, *arguments))
        except DRIVER_ERRORS as error:
            raise translated(self.address, error) from error

    async def fetch_if_there(self, statement: Statement) -> Sequence[Any]:
        """The records of one statement; none where the table does not exist."""
        try:
            return await self.followers.run(lambda connection: self.fetch_over(connection, statement))
        except DRIVER_ERRORS as error:
            if is_missing(error):
                return []
            raise translated(self.address, error) from error

    async def fetch_over(self, connection: Connection, statement: Statement) -> Sequence[Any]:
        """The records of one statement, in one transaction."""
        sql, arguments = statement
        if not self.address.pgbouncer:
            rows: Sequence[Any] = await connection.fetch(sql, *arguments)
            return rows
        # Between two messages the pooler may change the server connection, but not in a transaction.
        async with connection.transaction():
            await connection.execute("; ".join(f"set local {name} = {value}" for name, value in PLANS.items()))
            rows = await connection.fetch(sql, *arguments)
            return rows


async def _version_and_encoding(connection: Connection) -> tuple[int, str]:
    return connection.get_server_version().major, connection.get_settings().server_encoding

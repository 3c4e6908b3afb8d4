"""Everything a log in PostgreSQL holds, read over one connection."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from twofold.domain.command_ids import APPEND_ID_PATTERN
from twofold.domain.event_query import ALL_EVENTS, AppendCondition
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Unavailable, WiringError
from twofold.postgres_server import LOST, Connection, PostgresAddress, close, connect
from twofold.write_store.checksums import command_checksum, damaged_command
from twofold.write_store.log_content import LogUse, RememberedCommand
from twofold.write_store.port import LogIdentity, LogRow
from twofold.write_store.postgres import functions, reading
from twofold.write_store.postgres.connections import not_migrated
from twofold.write_store.postgres.functions import Caller, Function

_PATIENCE = 10.0

# Without the ids that the store has made up itself: only the process that made them asks for them again.
_COMMANDS = """
select command_id, request_hash, position, count, recorded_at, nonce, checksum from {schema}.commands
where command_id > $1 and command_id !~ '{appends}' order by command_id limit $2
""".replace("{appends}", APPEND_ID_PATTERN)
_SPACES = "select distinct space from {schema}.rows order by space"
_SINCE = """
with newer as materialized (
    select command_id, request_hash, position, count, recorded_at, nonce, checksum
      from {schema}.commands where position >= $1
)
select command_id, request_hash, position, count, recorded_at, nonce, checksum from newer
 where command_id !~ '{appends}'
""".replace("{appends}", APPEND_ID_PATTERN)
_VERSIONS = """
select key, version from {schema}.rows
 where space = $1 and key >= coalesce($2, '') and key is distinct from $2 and ($3::text is null or key <= $3)
 order by key limit $4
"""


class PostgresContent:
    """The content of a log, read over one connection."""

    def __init__(self, connection: Connection, address: PostgresAddress) -> None:
        self._connection = connection
        self._address = address
        self._schema = address.schema
        self._caller = Caller(address.schema, plain=address.pgbouncer)
        self._names: dict[int, str] = {}

    async def events(self, after: Position, limit: int) -> Sequence[RecordedEvent]:
        arguments = reading.arguments([AppendCondition(ALL_EVENTS, after)], None, limit)
        response = reading.response(await self._call(functions.READ, *arguments))
        if any(type_id not in self._names for _, type_id, *_ in response.events):
            self._names = {type_id: name for type_id, name in await self._call(functions.TYPES)}
        return reading.slice_of(response, self._names, limit).events

    async def commands(self, after: str, limit: int) -> Sequence[RememberedCommand]:
        return [_sound(*row) for row in await self._connection.fetch(self._sql(_COMMANDS), after, limit)]

    async def spaces(self) -> Sequence[str]:
        return [space for (space,) in await self._connection.fetch(self._sql(_SPACES))]

    async def rows(self, space: str, after: str | None, limit: int) -> Mapping[str, LogRow]:
        _, rows = reading.rows_of(space, await self._call(functions.ROWS, space, None, after, limit))
        return rows

    async def commands_since(self, position: Position) -> Sequence[RememberedCommand]:
        return [_sound(*row) for row in await self._connection.fetch(self._sql(_SINCE), position)]

    async def rows_of(self, space: str, keys: Sequence[str]) -> Mapping[str, LogRow]:
        _, rows = reading.rows_of(space, await self._call(functions.ROWS, space, list(keys), None, None))
        return rows

    async def versions(self, space: str, after: str | None, upto: str | None, limit: int) -> Mapping[str, int]:
        found = await self._connection.fetch(self._sql(_VERSIONS), space, after, upto, limit)
        return {key: version for key, version in found}

    async def _call(self, function: Function, *arguments: Any) -> Sequence[functions.ResultRow]:
        return await self._caller.call(self._connection, function, *arguments)

    def _sql(self, sql: str) -> str:
        return sql.replace("{schema}", self._schema)


def _sound(
    command_id: str, request_hash: bytes, position: Position, count: int, recorded_at: int, *rest: int
) -> RememberedCommand:
    """What is remembered of a command; `rest` are its nonce and its checksum. WiringError where it is damaged."""
    row = command_id, request_hash, position, count, recorded_at
    nonce, checksum = rest
    if command_checksum(*row, nonce) != checksum:
        raise WiringError(damaged_command(command_id))
    return RememberedCommand(*row)


class PostgresLogSnapshot(PostgresContent):
    """The content of a log within one transaction."""

    identity = LogIdentity("", 0)
    use = LogUse("log", "")
    head = 0
    chain = b""
    schema = 0

    async def begin(self) -> None:
        """Read which history it is, and its head: the snapshot is taken with that. WiringError where it is no log."""
        states = await self._call(functions.STATE, 0)
        if not states:
            raise not_migrated(self._address)
        ((name, epoch, self.head, self.schema, _, epochs, afters, self.chain, _, use, place),) = states
        self.use = LogUse(use, place)
        self.use.refuse(self._address.shown, read_only=True)
        self.identity = LogIdentity(name, epoch, tuple(zip(epochs, afters, strict=True)))


class PostgresClosedLog(PostgresLogSnapshot):
    """The content of a log within a transaction that keeps all processes from appending."""

    async def close_log(self) -> None:
        """Keep all processes from appending until the transaction ends."""
        await self._call(functions.CLOSE_LOG)

    async def seal(self, place: str) -> None:
        await self._call(functions.SEAL, self.identity.epoch, place)


@asynccontextmanager
async def reading_snapshot(address: PostgresAddress) -> AsyncGenerator[PostgresLogSnapshot]:
    """The log at an address, in a transaction for reading that lasts as long as this context. It locks nothing."""
    async with connected(address) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        snapshot = PostgresLogSnapshot(connection, address)
        await snapshot.begin()
        yield snapshot


@asynccontextmanager
async def closed_log(address: PostgresAddress) -> AsyncGenerator[PostgresClosedLog]:
    """The log at an address, which takes no appends within the context. A seal is durable when the context ends."""
    async with connected(address) as connection, connection.transaction():
        log = PostgresClosedLog(connection, address)
        await log.close_log()
        await log.begin()
        yield log


@asynccontextmanager
async def connected(address: PostgresAddress) -> AsyncGenerator[Connection]:
    try:
        connection = await connect(address, _PATIENCE)
        try:
            yield connection
        finally:
            await close(connection)
    except LOST as error:
        raise Unavailable(
            f"PostgreSQL at {address.shown} cannot be reached: {error or type(error).__name__}"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise WiringError(f"This needs the role that owns the log at {address.shown}: {error}") from error
    except asyncpg.PostgresError as error:
        raise Unavailable(f"PostgreSQL at {address.shown} refused: {error}") from error

"""Moving a log out of PostgreSQL, or into it, as the role that owns it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from twofold.domain.command_ids import APPEND_ID_PATTERN
from twofold.domain.event_query import ALL_EVENTS, AppendCondition
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Unavailable, WiringError
from twofold.postgres_server import LOST, Connection, PostgresAddress, close, connect
from twofold.write_store.port import EmptyLog, LogIdentity, LogRow, RememberedCommand
from twofold.write_store.postgres import functions, reading
from twofold.write_store.postgres.functions import Caller, Function

_PATIENCE = 10.0

# Without the ids that the store has made up itself: only the process that made them asks for them again.
_COMMANDS = """
select command_id, request_hash, position, count, recorded_at from {schema}.commands
where command_id > $1 and command_id !~ '{appends}' order by command_id limit $2
""".replace("{appends}", APPEND_ID_PATTERN)
_SPACES = "select distinct space from {schema}.rows order by space"
_CONTENT_COUNT = """
select position + (select count(*) from {schema}.commands) + (select count(*) from {schema}.rows)
       + (select count(*) from {schema}.epochs)
from {schema}.log_head for update
"""
_HEAD = """
update {schema}.log_head
   set name = $1, epoch = $2, position = $3, chain = $4, timeline = left(pg_walfile_name(pg_current_wal_lsn()), 8),
       cluster = (select system_identifier::text from pg_control_system())
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
        return [RememberedCommand(*row) for row in await self._connection.fetch(self._sql(_COMMANDS), after, limit)]

    async def spaces(self) -> Sequence[str]:
        return [space for (space,) in await self._connection.fetch(self._sql(_SPACES))]

    async def rows(self, space: str, after: str | None, limit: int) -> Mapping[str, LogRow]:
        _, rows = reading.rows_of(await self._call(functions.ROWS, space, None, after, limit))
        return rows

    async def _call(self, function: Function, *arguments: Any) -> Sequence[functions.ResultRow]:
        return await self._caller.call(self._connection, function, *arguments)

    def _sql(self, sql: str) -> str:
        return sql.replace("{schema}", self._schema)


class PostgresEmptyLog(PostgresContent):
    """A log that is filled within one transaction."""

    def __init__(self, connection: Connection, address: PostgresAddress) -> None:
        super().__init__(connection, address)
        self._types: dict[str, int] = {}

    async def add_events(self, events: Sequence[RecordedEvent]) -> None:
        new = {event.type for event in events} - self._types.keys()
        if new:
            numbered = await self._call(functions.NUMBER_TYPES, sorted(new))
            self._types = {name: type_id for type_id, name in numbered}
        rows: list[tuple[Any, ...]] = []
        tags: list[tuple[Any, ...]] = []
        for event in events:
            type_id = self._types[event.type]
            stored = event.stored_envelope
            rows.append((event.position, type_id, event.version, event.payload, stored.head, stored.tags, event.chain))
            tags += [(tag, type_id, event.position) for tag in event.tags]
        columns = ("position", "type_id", "version", "payload", "envelope", "tags", "chain")
        await self._copy("events", columns, rows)
        await self._copy("event_tags", ("tag", "type_id", "position"), tags)

    async def add_commands(self, commands: Sequence[RememberedCommand]) -> None:
        columns = ("command_id", "request_hash", "position", "count", "recorded_at", "nonce")
        await self._copy("commands", columns, [(*msgspec.structs.astuple(command), 0) for command in commands])
        await self._call(functions.ADVANCE_CLOCK, max(command.recorded_at for command in commands))

    async def add_rows(self, space: str, rows: Mapping[str, LogRow]) -> None:
        columns = ("space", "key", "value", "version")
        await self._copy("rows", columns, [(space, key, row.value, row.version) for key, row in rows.items()])

    async def _copy(self, table: str, columns: Sequence[str], records: Sequence[tuple[Any, ...]]) -> None:
        await self._connection.copy_records_to_table(table, schema_name=self._schema, columns=columns, records=records)


@asynccontextmanager
async def reading_content(address: PostgresAddress) -> AsyncGenerator[PostgresContent]:
    """All that a log holds, over a new connection. The head row is locked, so that no process writes meanwhile."""
    async with connected(address) as connection, connection.transaction():
        await connection.execute(f"select from {address.schema}.log_head for update")
        yield PostgresContent(connection, address)


@asynccontextmanager
async def importing(
    address: PostgresAddress, identity: LogIdentity, head: Position, chain: bytes
) -> AsyncGenerator[EmptyLog]:
    """A log to be filled, in one transaction that ends with this context."""
    async with connected(address) as connection, connection.transaction():
        if await connection.fetchval(_CONTENT_COUNT.replace("{schema}", address.schema)):
            raise WiringError(
                f"The log at {address.shown} is not empty. Move into a new schema: add ?schema=NAME to the URL, and "
                "create it with `twofold migrate`."
            )
        yield await begun(connection, address, identity, head, chain)


async def begun(
    connection: Connection, address: PostgresAddress, identity: LogIdentity, head: Position, chain: bytes
) -> PostgresEmptyLog:
    """The empty log at an address under a new identity, to be filled in the transaction of the connection."""
    await connection.execute(_HEAD.replace("{schema}", address.schema), identity.log, identity.epoch, head, chain)
    epochs = [(epoch, after, "the log was copied here with it") for epoch, after in identity.forks]
    await connection.copy_records_to_table(
        "epochs", schema_name=address.schema, columns=("epoch", "after", "cause"), records=epochs
    )
    return PostgresEmptyLog(connection, address)


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

"""A log in PostgreSQL that is a copy of another one, until it is complete. As the role that owns it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from twofold.domain.events import Position, RecordedEvent
from twofold.errors import WiringError
from twofold.postgres_server import Connection, PostgresAddress
from twofold.write_store.chain import chain_start
from twofold.write_store.checksums import command_checksum, epoch_checksums, row_checksum
from twofold.write_store.log_content import RememberedCommand
from twofold.write_store.port import LogIdentity, LogRow
from twofold.write_store.postgres import functions
from twofold.write_store.postgres.address import address_of
from twofold.write_store.postgres.connections import not_migrated
from twofold.write_store.postgres.content import PostgresContent, connected
from twofold.write_store.postgres.migrate import migrations

# No process knows the epoch of a copy, so one that had opened the empty log cannot append to it.
_BEGIN = """
update {schema}.log_head
   set name = $1, epoch = 0, position = 0, chain = $2, use = 'copy', place = $3, settled = null, rows_checksum = 0,
       commands_checksum = (select forgotten from {schema}.command_clock)
"""
# A copy that was settled still is.
_GO_ON = """
update {schema}.log_head
   set epoch = 0, settled = case when use = 'copy' then settled end, use = 'copy', place = $1
"""
_HEAD = "select name, place, position, chain, settled from {schema}.log_head"
_IN_USE = """
select h.name, h.use,
       h.position + (select count(*) from {schema}.epochs) > 0
       or exists (select from {schema}.commands) or exists (select from {schema}.rows)
  from {schema}.log_head h for update of h
"""
_COMMANDS = """
with before as materialized (
    select command_id, checksum from {schema}.commands where command_id = any ($1::text[])
), written as (
    insert into {schema}.commands (command_id, request_hash, position, count, recorded_at, checksum, nonce)
    select c.*, 0 from unnest($1::text[], $2::bytea[], $3::bigint[], $4::int[], $5::bigint[], $6::bigint[]) as c
    on conflict (command_id) do update
       set request_hash = excluded.request_hash, position = excluded.position, count = excluded.count,
           recorded_at = excluded.recorded_at, nonce = excluded.nonce, checksum = excluded.checksum
     where (excluded.position, excluded.recorded_at) > (commands.position, commands.recorded_at)
    returning command_id, checksum
), added as (
    select count(*) as many, coalesce(sum(w.checksum - coalesce(b.checksum, 0)), 0) as checksum
      from written w left join before b on b.command_id = w.command_id
)
update {schema}.log_head h set commands_checksum = h.commands_checksum + a.checksum from added a returning a.many
"""
_ROWS = """
with before as materialized (
    select coalesce(sum(checksum), 0) as checksum from {schema}.rows where space = $1 and key = any ($2::text[])
), written as (
    insert into {schema}.rows (space, key, value, version, checksum)
    select $1, r.* from unnest($2::text[], $3::bytea[], $4::bigint[], $5::bigint[]) as r
    on conflict (space, key)
    do update set value = excluded.value, version = excluded.version, checksum = excluded.checksum
    returning checksum
)
update {schema}.log_head h
   set rows_checksum = h.rows_checksum + (select coalesce(sum(w.checksum), 0) from written w) - b.checksum
  from before b
"""
_DELETED = """
with deleted as (
    delete from {schema}.rows where space = $1 and key = any ($2) returning checksum
)
update {schema}.log_head h
   set rows_checksum = h.rows_checksum - (select coalesce(sum(d.checksum), 0) from deleted d)
"""
_EPOCHS = """
insert into {schema}.epochs (epoch, after, checksum, cause)
select e.*, 'the log was copied here with it' from unnest($1::int[], $2::bigint[], $3::bigint[]) as e
on conflict do nothing
"""
_COMPLETE = """
update {schema}.log_head
   set epoch = $1, use = 'log', place = '', settled = null,
       timeline = left(pg_walfile_name(pg_current_wal_lsn()), 8),
       cluster = (select system_identifier::text from pg_control_system())
"""


class PostgresLogCopy(PostgresContent):
    """A log that is being filled, over one connection."""

    def __init__(self, connection: Connection, address: PostgresAddress) -> None:
        super().__init__(connection, address)
        self.identity = LogIdentity("", 0)
        self.place = ""
        self.head: Position = 0
        self.chain = b""
        self.settled: Position | None = None
        self._types: dict[str, int] = {}

    async def begin(self) -> None:
        """Read how far it is."""
        ((name, self.place, self.head, self.chain, self.settled),) = await self._connection.fetch(self._sql(_HEAD))
        forks = await self._connection.fetch(self._sql("select epoch, after from {schema}.epochs order by epoch"))
        epoch = max((number for number, _ in forks), default=1)
        self.identity = LogIdentity(name, epoch, tuple((number, after) for number, after in forks))

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        before = self.head, self.chain, self.settled, self._types
        try:
            async with self._connection.transaction():
                yield
        except BaseException:
            self.head, self.chain, self.settled, self._types = before
            raise

    async def add_events(self, events: Sequence[RecordedEvent]) -> None:
        if not events:
            return
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
        async with self.transaction():
            await self._copy("events", columns, rows)
            await self._copy("event_tags", ("tag", "type_id", "position"), tags)
            sql = "update {schema}.log_head set position = $1, chain = $2, settled = null"
            await self._connection.execute(self._sql(sql), events[-1].position, events[-1].chain)
        self.head, self.chain, self.settled = events[-1].position, events[-1].chain, None

    async def add_commands(self, commands: Sequence[RememberedCommand]) -> int:
        if not commands:
            return 0
        async with self.transaction():
            added: int = await self._connection.fetchval(
                self._sql(_COMMANDS),
                [command.command_id for command in commands],
                [command.request_hash for command in commands],
                [command.position for command in commands],
                [command.count for command in commands],
                [command.recorded_at for command in commands],
                [command_checksum(*msgspec.structs.astuple(command)) for command in commands],
            )
            await self._call(functions.ADVANCE_CLOCK, max(command.recorded_at for command in commands))
            if added:
                await self._unsettle()
        return added

    async def set_rows(self, space: str, rows: Mapping[str, LogRow | None]) -> None:
        written = {key: row for key, row in rows.items() if row is not None}
        deleted = [key for key, row in rows.items() if row is None]
        async with self.transaction():
            if written:
                values, versions = [row.value for row in written.values()], [row.version for row in written.values()]
                checksums = [row_checksum(space, key, row.version, row.value) for key, row in written.items()]
                await self._connection.execute(self._sql(_ROWS), space, list(written), values, versions, checksums)
            if deleted:
                await self._connection.execute(self._sql(_DELETED), space, deleted)
            if rows:
                await self._unsettle()

    async def settle(self, identity: LogIdentity) -> None:
        await self._identify(identity)
        await self._connection.execute(self._sql("update {schema}.log_head set settled = position"))
        self.settled = self.head

    async def complete(self, identity: LogIdentity) -> None:
        async with self.transaction():
            # The role may have another default.
            await self._connection.execute("set local synchronous_commit = on")
            await self._identify(identity)
            await self._connection.execute(self._sql(_COMPLETE), identity.epoch)

    async def _unsettle(self) -> None:
        if self.settled is not None:
            await self._connection.execute(self._sql("update {schema}.log_head set settled = null"))
            self.settled = None

    async def _identify(self, identity: LogIdentity) -> None:
        epochs, afters = [epoch for epoch, _ in identity.forks], [after for _, after in identity.forks]
        checksums = epoch_checksums(identity.forks)
        await self._connection.execute(self._sql(_EPOCHS), epochs, afters, checksums)
        self.identity = identity

    async def _copy(self, table: str, columns: Sequence[str], records: Sequence[tuple[Any, ...]]) -> None:
        await self._connection.copy_records_to_table(table, schema_name=self._schema, columns=columns, records=records)


@asynccontextmanager
async def opened_copy(url: str, identity: LogIdentity | None, place: str) -> AsyncGenerator[PostgresLogCopy]:
    """The copy at an address of the log `identity` at a place: begun in an empty log, or continued.

    With the identity None it is only continued. WiringError where anything else is there.
    """
    address = address_of(url)
    if address.pgbouncer:
        raise WiringError(f"A log cannot be copied through a pooler. Name the server itself, not {address.shown}.")
    async with connected(address) as connection:
        await _enter(connection, address, identity, place)
        copy = PostgresLogCopy(connection, address)
        await copy.begin()
        yield copy


async def _enter(connection: Connection, address: PostgresAddress, identity: LogIdentity | None, place: str) -> None:
    schema = address.schema
    if not await connection.fetchval("select to_regclass($1) is not null", f"{schema}.log_head"):
        raise not_migrated(address)
    applied = await connection.fetchval(f"select max(number) from {schema}.migrations")
    if applied < len(migrations(schema)):
        raise not_migrated(address)
    # One copier at a time, until its connection ends.
    if not await connection.fetchval("select pg_try_advisory_lock(hashtext('twofold copy'), hashtext($1))", schema):
        raise WiringError(f"Another process copies a log to {address.shown}. Stop it, or wait for its end.")
    async with connection.transaction():
        found = await connection.fetchrow(_IN_USE.replace("{schema}", schema))
        if found is None:
            raise not_migrated(address)
        name, use, filled = found
        if identity is None:
            if use != "copy":
                raise WiringError(f"{address.shown} is not a copy that is to be completed.")
        elif use == "log" and not filled:
            start = chain_start(identity.log)
            await connection.execute(_BEGIN.replace("{schema}", schema), identity.log, start, place)
        elif use == "log" or name != identity.log:
            raise WiringError(
                f"The log at {address.shown} is not empty. Move into a new schema: add ?schema=NAME to the URL, and "
                "create it with `twofold migrate`."
            )
        else:
            # A copy that is continued, or the log that was moved before and is now moved back.
            await connection.execute(_GO_ON.replace("{schema}", schema), place)


async def begin_replacement(connection: Connection, address: PostgresAddress, log: str) -> PostgresLogCopy:
    """A copy of a log, in a schema that was emptied in the transaction of the connection."""
    await connection.execute(_BEGIN.replace("{schema}", address.schema), log, chain_start(log), "")
    copy = PostgresLogCopy(connection, address)
    await copy.begin()
    return copy

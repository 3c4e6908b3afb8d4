"""The schema of a keyspace: tables are created, rebuilt for other filters and orders, and dropped.

What is declared now is never added to existing tables: they are rebuilt, under names that no other process uses, and
then replace the old ones in one conditional statement. Meanwhile no process saves into the old ones: they are *sealed*.
So neither a process with old declarations nor two that rebuild at once can do harm.
"""

import logging

import msgspec

from twofold.errors import TwofoldError, Unavailable
from twofold.read_store import refusals
from twofold.read_store.cassandra.checkpoints import CassandraCheckpoints, GenerationState
from twofold.read_store.cassandra.connection import CassandraConnection
from twofold.read_store.cassandra.errors import TableMissing
from twofold.read_store.cassandra.rows import CassandraLayout
from twofold.read_store.cassandra.saving import CassandraTables
from twofold.read_store.cassandra.schema_names import build_name, is_table_of
from twofold.read_store.partition import shares
from twofold.world import World

log = logging.getLogger(__name__)

_COPIES = 3
_KEYSPACES = "select keyspace_name from system_schema.keyspaces where keyspace_name = ?"
_COLUMNS = "select column_name from system_schema.columns where keyspace_name = ? and table_name = 'checkpoints'"
_TABLES = "select table_name from system_schema.tables where keyspace_name = ?"


async def identity_of(connection: CassandraConnection, world: World, *, read_only: bool) -> str:
    """The identity of the keyspace, which is created if it does not exist, with the table of checkpoints.

    If several nodes create one keyspace at once, its table may come a moment later.
    """
    checkpoints = CassandraCheckpoints(connection)
    if read_only:
        await connection.locate_keyspace()
        return await checkpoints.identity(None)

    async def attempt() -> str:
        await _create_keyspace(connection)
        await connection.locate_keyspace()
        return await checkpoints.identity(world.new_id())

    return await connection.retry(attempt, lambda error: isinstance(error, TableMissing))


async def _create_keyspace(connection: CassandraConnection) -> None:
    address = connection.address
    if not await connection.rows(_KEYSPACES, address.keyspace):
        datacenter = f"'{address.datacenter}'" if address.datacenter else "'replication_factor'"
        copies = address.replication or min(_COPIES, connection.nodes)
        await connection.define(
            f"create keyspace if not exists {address.keyspace} with replication ="
            f" {{'class': 'NetworkTopologyStrategy', {datacenter}: {copies}}}"
        )
    if ("checkpoints",) not in await connection.rows(_TABLES, address.keyspace):
        await CassandraCheckpoints(connection).create()
    elif ("parked",) not in await connection.rows(_COLUMNS, address.keyspace):
        # Tables of an earlier version. The followers write the summaries when they start.
        await connection.define(f"alter table {address.keyspace}.checkpoints add parked text")


class CassandraSchema:
    """The tables of the read models in one keyspace."""

    def __init__(self, connection: CassandraConnection, checkpoints: CassandraCheckpoints, world: World) -> None:
        self._connection = connection
        self._checkpoints = checkpoints
        self._world = world

    async def prepare(self, layout: CassandraLayout) -> CassandraTables:
        """The tables of a read model: created if they do not exist, rebuilt if they are for other accesses.

        WiringError, with the fix, if the stored rows no longer fit the row type.
        """
        model = layout.model
        while True:
            state = await self._checkpoints.state(model.name, model.generation, serial=True)
            tables = await (self._begin(layout) if state.build is None else self._update(layout, state))
            if tables is not None:
                return tables

    async def expect(self, layout: CassandraLayout) -> CassandraTables:
        """The tables of a read model, for a reader. Unavailable if they do not exist, or are not as declared."""
        model, where = layout.model, self._connection.address.shown
        try:
            state = await self._checkpoints.state(model.name, model.generation)
        except TableMissing:
            state = GenerationState()
        if state.build is None:
            raise refusals.missing(where, "table", model)
        if state.declared != layout.declared:
            raise Unavailable(
                f"{where} has other filters and orders of read model '{model.name}' generation {model.generation} than "
                f"are declared: {state.declared}. Start the app that writes it with the same modules."
            )
        return CassandraTables(self._connection, layout, state.build)

    async def drop(self, name: str, generation: int) -> None:
        await self._checkpoints.erase(name, generation)
        await self._drop_builds(name, generation)

    async def _begin(self, layout: CassandraLayout) -> CassandraTables | None:
        """The tables of a new generation; None if another process came first."""
        tables = await self._create(layout)
        partitions = shares(layout.model.partitions)
        if await self._checkpoints.begin(layout.model, tables.build, layout.declared, partitions):
            return tables
        await tables.drop()
        return None

    async def _update(self, layout: CassandraLayout, state: GenerationState) -> CassandraTables | None:
        """The existing tables, or those that replace them; None if another process came first."""
        model, build = layout.model, state.build or ""
        existing = CassandraTables(self._connection, layout, build)
        if state.declared == layout.declared:
            # A seal is that of a process that was interrupted, or that will find that it comes too late.
            if state.seal is not None and not await self._checkpoints.unseal(model, state, build, layout.declared):
                return None
            await existing.check()
            return existing
        if state.seal is None:
            state = msgspec.structs.replace(state, seal=self._world.new_id())
            if not await self._checkpoints.seal(model, build, state.seal or ""):
                return None
        log.info("%s: tables are rebuilt for other filters and orders", model.name)
        return await self._rebuild(layout, existing, state)

    async def _rebuild(
        self, layout: CassandraLayout, old: CassandraTables, sealed: GenerationState
    ) -> CassandraTables | None:
        model = layout.model
        new = await self._create(layout)
        try:
            await new.copy(old.rows)
            replaced = await self._checkpoints.unseal(model, sealed, new.build, layout.declared)
        except TwofoldError:
            await new.drop()
            state = await self._checkpoints.state(model.name, model.generation, serial=True)
            if (state.build, state.seal) != (sealed.build, sealed.seal):
                # The old tables were dropped during the copy: another process has rebuilt them.
                return None
            await self._checkpoints.unseal(model, sealed, old.build, sealed.declared)
            raise
        if not replaced:
            await new.drop()
            return None
        await self._drop_builds(model.name, model.generation, keep=new.build)
        return new

    async def _create(self, layout: CassandraLayout) -> CassandraTables:
        tables = CassandraTables(self._connection, layout, build_name(self._world.new_id()))
        await tables.create()
        return tables

    async def _drop_builds(self, name: str, generation: int, *, keep: str | None = None) -> None:
        """Drop the tables of all builds of a generation, except one."""
        keyspace = self._connection.address.keyspace
        for (table,) in await self._connection.rows(_TABLES, keyspace):
            if is_table_of(table, name, generation) and not (keep and table.endswith(f"_{keep}")):
                await self._connection.define(f"drop table if exists {keyspace}.{table}")

"""Read models in Cassandra: many processes write, and finds read tables made for what is declared."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from twofold.errors import WiringError
from twofold.read_store import refusals
from twofold.read_store.cassandra.address import address_of
from twofold.read_store.cassandra.checkpoints import CassandraCheckpoints
from twofold.read_store.cassandra.connection import CassandraConnection
from twofold.read_store.cassandra.errors import Forbidden, TableMissing
from twofold.read_store.cassandra.inspection import CassandraRowInspector
from twofold.read_store.cassandra.rows import CassandraLayout
from twofold.read_store.cassandra.saving import CassandraTables
from twofold.read_store.cassandra.schema import CassandraSchema, identity_of
from twofold.read_store.cassandra.snapshot import CassandraSnapshot
from twofold.read_store.partition import Partition
from twofold.read_store.port import Change, Checkpoint, Lookup, RawRow, ReadModel, VersionedRow
from twofold.read_store.refusals import prepared
from twofold.world import RealWorld, World


class CassandraReadStore:
    """Read models in one keyspace of a cluster. Rows are saved before their checkpoint, and may be saved again.

    All reads and writes wait for a majority of the copies in one datacenter.
    """

    save_events = 5_000

    def __init__(self, connection: CassandraConnection, identity: str, *, read_only: bool, world: World) -> None:
        self.identity = identity
        self._connection = connection
        self._read_only = read_only
        self._world = world
        self._checkpoints = CassandraCheckpoints(connection)
        self._schema = CassandraSchema(connection, self._checkpoints, world)
        self._tables: dict[tuple[str, int], CassandraTables] = {}

    @classmethod
    async def open(
        cls, url: str, *, read_only: bool = False, patience: float = 10.0, world: World | None = None
    ) -> "CassandraReadStore":
        """The read store at a `cassandra://` URL. After a transient error, a call is repeated for `patience` seconds.

        WiringError if the URL is malformed, or the user or the server lack what is needed; Unavailable if no server
        responds.
        """
        address = address_of(url)
        world = world or RealWorld()
        connection = await CassandraConnection.open(address, world, patience)
        try:
            identity = await identity_of(connection, world, read_only=read_only)
        except BaseException as error:
            await connection.close()
            if isinstance(error, Forbidden):
                raise WiringError(
                    f"{error} Grant it to create keyspaces, or create this keyspace and grant it to create tables."
                ) from error
            raise
        return cls(connection, identity, read_only=read_only, world=world)

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        prepare = self._schema.expect if self._read_only else self._schema.prepare
        for model in models:
            try:
                self._tables[model.name, model.generation] = await prepare(CassandraLayout(model))
            except Forbidden as error:
                raise WiringError(f"{error} Grant it to create, alter, drop, read and write tables.") from error

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        return await prepared(self._tables, model).load(keys)

    async def save(self, change: Change) -> None:
        self._refuse_if_read_only()
        tables = prepared(self._tables, change.model)
        if change.rows:
            await self._checkpoints.check(change, tables.build)
            await tables.save(change.rows)
        await self._checkpoints.advance(change, tables.build, self._world.new_id())

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[CassandraSnapshot]:
        yield CassandraSnapshot(self._connection, self._checkpoints, self._tables)

    async def lookup(self, model: ReadModel, key: str) -> Lookup:
        async with self.snapshot() as snapshot:
            progress = await snapshot.progress(model)
            return Lookup(progress, await snapshot.get(model, key))

    async def checkpoints(self) -> list[Checkpoint]:
        try:
            return await self._checkpoints.all()
        except TableMissing:
            return []

    async def close(self) -> None:
        await self._connection.close()

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        self._refuse_if_read_only()
        prepared(self._tables, model)
        await self._checkpoints.repartition(model, old, new, self._world.new_id())

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        known = self._tables.get((name, generation))
        inspector = await self._inspector(name, generation, known.layout.model if known else None)
        return [] if inspector is None else await inspector.page(after, limit)

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        inspector = await self._inspector(model.name, model.generation, model)
        return {} if inspector is None else await inspector.inspect(keys)

    async def drop(self, name: str, generation: int) -> None:
        self._refuse_if_read_only()
        self._tables.pop((name, generation), None)
        await self._schema.drop(name, generation)

    async def _inspector(self, name: str, generation: int, model: ReadModel | None) -> CassandraRowInspector | None:
        """None if there is no such generation."""
        read_state = partial(self._checkpoints.state, name, generation)
        try:
            state = await read_state()
        except TableMissing:
            return None
        if state.build is None:
            return None
        return CassandraRowInspector(
            self._connection, (name, generation), state, model, read_state=read_state, sleep=self._world.sleep
        )

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise refusals.read_only(self._connection.address.shown)

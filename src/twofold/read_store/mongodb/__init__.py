"""Read models in a MongoDB replica set, written by any number of processes at once."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from twofold.read_store import refusals
from twofold.read_store.access import is_text
from twofold.read_store.mongodb import schema
from twofold.read_store.mongodb.address import address_of
from twofold.read_store.mongodb.checkpoints import MongoCheckpoints, all_checkpoints, read_checkpoints
from twofold.read_store.mongodb.connection import MongoConnection
from twofold.read_store.mongodb.inspection import NOT_DELETED, MongoRowInspector
from twofold.read_store.mongodb.rows import MongoTable
from twofold.read_store.mongodb.saving import save
from twofold.read_store.mongodb.schema_names import PARKED, id_of, parked_ids, rows_collection
from twofold.read_store.mongodb.snapshot import MongoSnapshot, check_text
from twofold.read_store.partition import Partition
from twofold.read_store.port import Change, Checkpoint, Lookup, RawRow, ReadModel, VersionedRow
from twofold.read_store.refusals import prepared
from twofold.uncancellable import uncancelled
from twofold.world import RealWorld, World


class MongoReadStore:
    """A read store in one database of a MongoDB replica set.

    The store is not transactional: after an interrupted save rows are ahead of the checkpoint, see `saving`. But a
    snapshot reads as of one moment: that of its first read, not that of its opening, which would need a read more.
    """

    save_events = 5_000

    def __init__(self, connection: MongoConnection, *, read_only: bool, world: World) -> None:
        self.identity = ""
        self.tasks = connection.tasks
        self._connection = connection
        self._read_only = read_only
        self._checkpoints = MongoCheckpoints(connection, world)
        self._tables: dict[tuple[str, int], MongoTable] = {}

    @classmethod
    async def open(
        cls, url: str, *, read_only: bool = False, patience: float = 20.0, world: World | None = None
    ) -> Self:
        """The read store at a `mongodb://` URL, in the database `twofold` if the URL names none.

        After a transient error, as while a primary is elected, a call is repeated for `patience` seconds. WiringError
        if the URL is malformed or the server lacks what is needed; Unavailable if it cannot be reached.
        """
        world = world or RealWorld()
        store = cls(MongoConnection(address_of(url), world, patience), read_only=read_only, world=world)
        try:
            await store._connection.check()
            store.identity = await schema.identity_of(store._connection, None if read_only else world.new_id())
        except BaseException:
            await store.close()
            raise
        return store

    @uncancelled
    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            table = MongoTable(model)
            if not self._read_only:
                await schema.prepare(self._connection, self._checkpoints, table)
            elif missing := await schema.missing(self._connection, self._checkpoints, table):
                raise refusals.missing(self._connection.address.shown, missing, model)
            self._tables[model.name, model.generation] = table

    @uncancelled
    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        table = prepared(self._tables, model)
        check_text(model, *keys)
        # A fold on a row that is older than the checkpoint would be wrong: hence the latest, not the majority's.
        rows = self._connection.collection(table.collection, latest=True)
        condition = {"_id": {"$in": list(keys)}}
        documents = await self._connection.retry(
            lambda: rows.find(condition, {"c": 0}, batch_size=len(keys) + 1).to_list()
        )
        return {document["_id"]: table.versioned_row(document) for document in documents}

    @uncancelled
    async def save(self, change: Change) -> None:
        self._refuse_if_read_only()
        await save(self._connection, self._checkpoints, prepared(self._tables, change.model), change)

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[MongoSnapshot]:
        snapshot = MongoSnapshot(self._connection, self._tables)
        try:
            yield snapshot
        finally:
            await snapshot.end()

    async def lookup(self, model: ReadModel, key: str) -> Lookup:
        async with self.snapshot() as snapshot:
            return await snapshot.lookup(model, key)

    @uncancelled
    async def checkpoints(self) -> list[Checkpoint]:
        return all_checkpoints(await self._connection.retry(lambda: read_checkpoints(self._connection)))

    async def close(self) -> None:
        await self._connection.close()

    @uncancelled
    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        self._refuse_if_read_only()
        await self._checkpoints.repartition(prepared(self._tables, model), old, new)

    @uncancelled
    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        known = self._tables.get((name, generation))
        inspector = await self._inspector(name, generation, known.model if known else None)
        return await inspector.rows({"_id": {"$gt": after}, **NOT_DELETED}, limit)

    @uncancelled
    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        inspector = await self._inspector(model.name, model.generation, model)
        return dict(await inspector.rows({"_id": {"$in": [key for key in keys if is_text(key)]}}, len(keys) + 1))

    @uncancelled
    async def drop(self, name: str, generation: int) -> None:
        self._refuse_if_read_only()
        self._tables.pop((name, generation), None)
        model_id = id_of(name, generation)
        await self._checkpoints.remove(model_id)
        rows, parked = self._connection.collection(rows_collection(model_id)), self._connection.collection(PARKED)
        await self._connection.retry(rows.drop)
        await self._connection.retry(lambda: parked.delete_many({"_id": parked_ids(model_id)}))

    async def _inspector(self, name: str, generation: int, model: ReadModel | None) -> MongoRowInspector:
        model_id = id_of(name, generation)
        return MongoRowInspector(self._connection, model_id, await self._checkpoints.filled_columns(model_id), model)

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise refusals.read_only(self._connection.address.shown)

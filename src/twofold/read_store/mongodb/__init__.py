"""Read models in a MongoDB replica set, written by any number of processes at once."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from twofold.errors import Unavailable, WiringError
from twofold.read_store.access import is_text
from twofold.read_store.mongodb import layout
from twofold.read_store.mongodb.address import Address, address_of
from twofold.read_store.mongodb.client import Client, Document
from twofold.read_store.mongodb.finds import Table
from twofold.read_store.mongodb.looking import NOT_GONE, Looking
from twofold.read_store.mongodb.names import CHECKPOINTS, PARKED, id_of, parked_of, rows_of
from twofold.read_store.mongodb.progress import checkpoints_of, reading
from twofold.read_store.mongodb.snapshot import MongoSnapshot, check_text
from twofold.read_store.mongodb.standing import Standings
from twofold.read_store.mongodb.writing import parked_updates, write_parked, write_rows
from twofold.read_store.partition import Partition
from twofold.read_store.port import Change, Checkpoint, RawRow, ReadModel, VersionedRow
from twofold.world import RealWorld, World


class MongoReadStore:
    """A read store in one database of a MongoDB replica set.

    A save is several writes, the checkpoint last: where it is broken off, rows are ahead of the checkpoint, and the
    same events may come again. Rows carry versions, so that they then change nothing, and neither does whoever is
    late. That is why the store is not transactional, though a snapshot holds one moment still: that of its first
    question, not that of its opening, which would cost a question more.
    """

    def __init__(self, address: Address, *, read_only: bool, patience: float, world: World) -> None:
        self.identity = ""
        self._address = address
        self._read_only = read_only
        self._world = world
        self._client = Client(address, world, patience)
        self._standings = Standings(self._client, world)
        self._tables: dict[tuple[str, int], Table] = {}

    @classmethod
    async def open(
        cls, url: str, *, read_only: bool = False, patience: float = 20.0, world: World | None = None
    ) -> Self:
        """The read store a `mongodb://` URL names, in the database `twofold` where it names none.

        What fails in passing, as while a primary is elected, is tried again for `patience` seconds. WiringError where
        the URL is malformed or the server cannot do what is needed; Unavailable where it is away.
        """
        world = world or RealWorld()
        store = cls(address_of(url), read_only=read_only, patience=patience, world=world)
        try:
            await store._client.enter()
            store.identity = await layout.identity_of(store._client, None if read_only else world.new_id())
        except BaseException:
            await store.close()
            raise
        return store

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            table = Table(model)
            await self._client.uncancelled(self._prepare(table))
            self._tables[model.name, model.generation] = table

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        table = self._table(model)
        check_text(model, *keys)
        return await self._client.uncancelled(self._load(table, keys))

    async def save(self, change: Change) -> None:
        self._refuse_reader()
        table = self._table(change.model)
        await self._client.uncancelled(self._save(table, change))

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator[MongoSnapshot]:
        snapshot = MongoSnapshot(self._client, self._table)
        try:
            yield snapshot
        finally:
            await snapshot.end()

    async def checkpoints(self) -> list[Checkpoint]:
        return checkpoints_of(await self._client.uncancelled(self._client.patiently(self._everything)))

    async def close(self) -> None:
        await self._client.close()

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        self._refuse_reader()
        await self._client.uncancelled(self._standings.repartition(self._table(model), old, new))

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        known = self._tables.get((name, generation))
        behind = {"_id": {"$gt": after}, **NOT_GONE}
        return await self._client.uncancelled(
            self._look(id_of(name, generation), known.model if known else None, behind, limit)
        )

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        wanted = {"_id": {"$in": [key for key in keys if is_text(key)]}}
        return dict(
            await self._client.uncancelled(
                self._look(id_of(model.name, model.generation), model, wanted, len(keys) + 1)
            )
        )

    async def drop(self, name: str, generation: int) -> None:
        self._refuse_reader()
        self._tables.pop((name, generation), None)
        await self._client.uncancelled(self._drop(id_of(name, generation)))

    async def _prepare(self, table: Table) -> None:
        if not self._read_only:
            await layout.prepare(self._client, self._standings, table)
            return
        absent = await layout.missing(self._client, self._standings, table)
        if absent is not None:
            raise Unavailable(
                f"{self._address.shown} has no {absent} of read model '{table.model.name}' generation "
                f"{table.model.generation} yet. Start the app that writes it with the same modules."
            )

    async def _load(self, table: Table, keys: Sequence[str]) -> dict[str, VersionedRow]:
        # A row older than the checkpoint would be folded on wrongly: hence the latest, not what the majority has.
        rows = self._client.collection(table.collection, latest=True)
        wanted = {"_id": {"$in": list(keys)}}
        found = await self._client.patiently(lambda: rows.find(wanted, {"c": 0}, batch_size=len(keys) + 1).to_list())
        return {each["_id"]: table.kept(each) for each in found}

    async def _save(self, table: Table, change: Change) -> None:
        documents = table.documents(change.rows, change.now)
        parked = parked_updates(table, change)
        if not documents and not parked:
            await self._standings.advance(table, change, self._world.new_id())
            return
        async with self._standings.saving(table, change) as save:
            await write_rows(self._client, table, change, documents)
            await write_parked(self._client, parked)
            await self._standings.advance(table, change, save)

    async def _everything(self) -> list[Document]:
        checkpoints = self._client.collection(CHECKPOINTS)
        return await (await checkpoints.aggregate(reading())).to_list()

    async def _look(
        self, model: str, known: ReadModel | None, wanted: Document, limit: int
    ) -> list[tuple[str, RawRow]]:
        rows = self._client.collection(rows_of(model))
        columns = await self._standings.columns(model)
        found = await self._client.patiently(lambda: rows.find(wanted).sort("_id").limit(limit).to_list())
        looking = Looking(columns, known)
        return [(str(each["_id"]), looking.stored(each)) for each in found]

    async def _drop(self, model: str) -> None:
        await self._standings.remove(model)
        rows, parked = self._client.collection(rows_of(model)), self._client.collection(PARKED)
        await self._client.patiently(rows.drop)
        await self._client.patiently(lambda: parked.delete_many({"_id": parked_of(model)}))

    def _refuse_reader(self) -> None:
        if self._read_only:
            raise Unavailable(f"{self._address.shown} is open for reading only. Ask a process that writes.")

    def _table(self, model: ReadModel) -> Table:
        try:
            return self._tables[model.name, model.generation]
        except KeyError as error:
            raise WiringError(f"Read model '{model.name}' generation {model.generation} was never prepared.") from error

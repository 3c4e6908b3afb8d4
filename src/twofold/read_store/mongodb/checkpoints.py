"""Checkpoints and parked keys: one document for each generation of a read model, changed by compare-and-set.

_id         the model's id, as `schema_names.id_of` makes it; beside it `name` and `generation`
partitions  by name, the state of each
columns     the columns that all rows have, or are being given; `filled` says that all rows have them
layout      which change made the partitions what they are

Parked keys are in another collection, with one document for each.
"""

import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from pymongo.write_concern import WriteConcern

from twofold.errors import TwofoldError, Unavailable
from twofold.read_store.mongodb.connection import MongoConnection
from twofold.read_store.mongodb.rows import MongoDocument, MongoTable
from twofold.read_store.mongodb.schema_names import CHECKPOINTS, PARKED, parked_ids
from twofold.read_store.partition import Partition, partition_named, shares
from twofold.read_store.partition_state import (
    PartitionState,
    checkpoints_of,
    conflict,
    partitions_changed,
    progress_of,
    repartitioned,
)
from twofold.read_store.port import Change, Checkpoint, Parked, Progress
from twofold.world import World

_PAUSE = 0.05
_IS_PARKED = {"position": {"$exists": True}}
"""Of documents in the collection of parked keys: it is not a mark of one that was parked."""


class PartitionDocument(PartitionState, frozen=True):
    """The state of a partition. `save` is the id of its last save, `entered` that of the save that is under way."""

    save: str = ""
    entered: str = ""


class ModelDocument(msgspec.Struct, frozen=True, rename={"id": "_id"}):
    """The state of one generation of a read model, as it is stored."""

    id: str
    name: str
    generation: int
    partitions: dict[str, PartitionDocument]
    columns: tuple[str, ...] = ()
    filled: bool = False
    layout: str = ""

    @property
    def parts(self) -> dict[Partition, PartitionDocument]:
        """The partitions."""
        return {partition_named(name): state for name, state in self.partitions.items()}

    @property
    def under_way(self) -> set[str]:
        """The ids of the saves that have begun and not ended."""
        return {state.entered for state in self.partitions.values() if state.entered}


class MongoCheckpoints:
    """The documents of all read models in a database."""

    def __init__(self, connection: MongoConnection, world: World) -> None:
        self._connection = connection
        self._world = world
        self._documents = connection.collection(CHECKPOINTS, latest=True)
        # For what need not be durable: the checkpoint is written later, and is not durable without it.
        self._not_durable = self._documents.with_options(write_concern=WriteConcern(1))

    async def document(self, model_id: str) -> ModelDocument | None:
        """The document of a model; None if it was never prepared."""
        document = await self._connection.retry(lambda: self._documents.find_one({"_id": model_id}))
        return None if document is None else msgspec.convert(document, ModelDocument)

    async def declare(self, table: MongoTable) -> ModelDocument:
        """Make all processes save rows with the columns of `table` from now on. Inserts the document if absent."""
        columns = _columns(table)
        while (known := await self.document(table.id)) is None or list(known.columns) != columns:
            if known is None:
                # If another node was faster, its document is read next.
                model = table.model
                partitions = {partition.name: PartitionDocument() for partition in shares(model.partitions)}
                document = ModelDocument(table.id, model.name, model.generation, partitions, tuple(columns))
                await self._connection.insert_if_absent(self._documents, msgspec.to_builtins(document))
                continue
            filled = known.filled and set(columns) <= set(known.columns)
            unchanged = {"_id": table.id, "columns": {"$eq": list(known.columns)}, "filled": known.filled}
            step = {"$set": {"columns": columns, "filled": filled}}
            await self._connection.retry(partial(self._documents.update_one, unchanged, step))
        return known

    async def filled_columns(self, model_id: str) -> tuple[str, ...]:
        """The columns that all rows of a model have; none while rows are being given new ones."""
        document = await self.document(model_id)
        return document.columns if document and document.filled else ()

    async def mark_filled(self, table: MongoTable) -> None:
        """Note that all rows have the columns of `table`, unless others have been declared since."""
        condition = {"_id": table.id, "columns": {"$eq": _columns(table)}}
        await self._connection.retry(lambda: self._documents.update_one(condition, {"$set": {"filled": True}}))

    async def wait_for_saves(self, table: MongoTable) -> None:
        """Return when the saves that are under way have ended, or have had time to."""
        deadline = self._world.monotonic() + self._connection.patience
        waiting_for = await self._under_way(table)
        while waiting_for and self._world.monotonic() < deadline:
            await self._world.sleep(_PAUSE)
            waiting_for &= await self._under_way(table)

    @asynccontextmanager
    async def saving(self, table: MongoTable, change: Change) -> AsyncGenerator[str]:
        """The id of a new save, for `advance`, and a note that it is under way. Raises as `begin_save` does."""
        save = self._world.new_id()
        await self.begin_save(table, change, save)
        try:
            yield save
        except TwofoldError:
            path = f"partitions.{change.partition.name}.entered"
            condition = {"_id": table.id, path: save}
            # If this fails too, `wait_for_saves` waits for its whole time.
            with contextlib.suppress(Unavailable):
                await self._connection.retry(lambda: self._not_durable.update_one(condition, {"$set": {path: ""}}))
            raise

    async def begin_save(self, table: MongoTable, change: Change, save: str) -> None:
        """Refuse earlier epochs than that of the change from now on. Raises what `advance` would raise now."""
        path = f"partitions.{change.partition.name}"
        step = {"$max": {f"{path}.epoch": change.epoch}, "$set": {f"{path}.entered": save}}
        if not await self._step(self._not_durable, table, change, step):
            raise _refusal(table, change, await self.document(table.id))

    async def advance(self, table: MongoTable, change: Change, save: str | None = None) -> None:
        """Move a checkpoint on. Conflict if it is not the one that the change expects, Unavailable if the model has
        been declared with other columns.
        """
        save = save or self._world.new_id()
        state = msgspec.to_builtins(
            PartitionDocument(change.position, change.stamp, change.now, change.epoch, save=save)
        )
        # The summary is kept apart, so that a change without one does not touch it.
        state.pop("parked")
        if change.summary is not None:
            state["parked"] = msgspec.to_builtins(change.summary)
        path = f"partitions.{change.partition.name}"
        step = {"$set": {f"{path}.{field}": value for field, value in state.items()}}
        if await self._step(self._documents, table, change, step):
            return
        document = await self.document(table.id)
        # If only the response was lost, this save is there.
        if document is None or save not in {state.save for state in document.partitions.values()}:
            raise _refusal(table, change, document)

    async def repartition(self, table: MongoTable, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        document = await self.document(table.id)
        known = document.parts if document else {}
        parked = [parked.key for parked in await self._parked(table.id)]
        states = repartitioned(table.model, known, old, new, parked)
        layout = self._world.new_id()
        unchanged = {
            f"partitions.{partition.name}.{field}": stored
            for partition in old
            for field, stored in msgspec.to_builtins(known[partition]).items()
            if field in ("position", "log", "epoch", "save")
        }
        step: dict[str, Any] = {
            "$set": {
                f"partitions.{partition.name}": msgspec.to_builtins(msgspec.structs.replace(state, entered=""))
                for partition, state in states.items()
            }
            | {"layout": layout}
        }
        if removed := [partition for partition in old if partition not in new]:
            step["$unset"] = {f"partitions.{partition.name}": "" for partition in removed}
        done = await self._connection.retry(
            lambda: self._documents.find_one_and_update({"_id": table.id, **unchanged}, step)
        )
        if done is None:
            document = await self.document(table.id)
            if document is None or document.layout != layout:
                raise partitions_changed(table.model)

    async def remove(self, model_id: str) -> None:
        """Remove the document of a model: from now on no row of it can be saved."""
        await self._connection.retry(lambda: self._documents.delete_one({"_id": model_id}))

    async def _parked(self, model_id: str) -> list[Parked]:
        """The parked keys of a model."""
        parked = self._connection.collection(PARKED, latest=True)
        condition = {"_id": parked_ids(model_id), **_IS_PARKED}
        return _by_model(await self._connection.retry(lambda: parked.find(condition).to_list()))[1].get(model_id, [])

    async def _under_way(self, table: MongoTable) -> set[str]:
        document = await self.document(table.id)
        return document.under_way if document else set()

    async def _step(self, documents: Any, table: MongoTable, change: Change, step: Mapping[str, Any]) -> bool:
        """Change the document, if the change may be saved. Whether it was changed."""
        path = f"partitions.{change.partition.name}"
        condition = {
            "_id": table.id,
            f"{path}.position": change.before,
            f"{path}.log": {"$in": ["", change.expected]},
            f"{path}.epoch": {"$lte": change.epoch},
            # No column that this process does not write: rows without it would not be found by it.
            "columns": {"$not": {"$elemMatch": {"$nin": _columns(table)}}},
        }
        return await self._connection.retry(lambda: documents.find_one_and_update(condition, step)) is not None


async def read_checkpoints(connection: MongoConnection) -> list[Any]:
    """The documents of all models, and those of their parked keys: in one read."""
    pipeline: list[MongoDocument] = [
        {"$unionWith": {"coll": PARKED, "pipeline": [{"$match": _IS_PARKED}]}},
    ]
    return await (await connection.collection(CHECKPOINTS).aggregate(pipeline)).to_list()


def model_progress(document: MongoDocument | None) -> Progress:
    """The progress of one model, from its document."""
    return progress_of({} if document is None else msgspec.convert(document, ModelDocument).parts)


async def checkpoint_and_row(
    connection: MongoConnection, table: MongoTable, key: str, session: Any
) -> tuple[MongoDocument | None, MongoDocument | None]:
    """The document of a model, and that of one of its rows, in one read."""
    row = {"coll": table.collection, "pipeline": [{"$match": {"_id": {"$eq": key}}}]}
    pipeline: list[MongoDocument] = [{"$match": {"_id": table.id}}, {"$unionWith": row}]
    cursor = await connection.collection(CHECKPOINTS).aggregate(pipeline, session=session)
    documents: list[MongoDocument] = await cursor.to_list()
    checkpoint = next((document for document in documents if "partitions" in document), None)
    return checkpoint, next((document for document in documents if "partitions" not in document), None)


async def is_parked(connection: MongoConnection, model_id: str, key: str, session: Any) -> bool:
    condition = {"_id": f"{model_id}/{key}", **_IS_PARKED}
    return await connection.collection(PARKED).find_one(condition, session=session) is not None


def all_checkpoints(documents: Iterable[MongoDocument]) -> list[Checkpoint]:
    """The checkpoint of each partition of all models, from their documents."""
    models, parked = _by_model(documents)
    return checkpoints_of((model.name, model.generation, model.parts, parked.get(model.id, ())) for model in models)


def _by_model(documents: Iterable[MongoDocument]) -> tuple[list[ModelDocument], dict[str, list[Parked]]]:
    """The models, and their parked keys by the model's id."""
    models: list[ModelDocument] = []
    parked: dict[str, list[Parked]] = {}
    for document in documents:
        if "partitions" in document:
            models.append(msgspec.convert(document, ModelDocument))
        else:
            model_id, _, key = document["_id"].partition("/")
            parked.setdefault(model_id, []).append(msgspec.convert({**document, "key": key}, Parked))
    return models, parked


def _refusal(table: MongoTable, change: Change, document: ModelDocument | None) -> TwofoldError:
    state = document.partitions.get(change.partition.name) if document else None
    unknown = [column for column in document.columns if column not in table.column_names.values()] if document else []
    if state is not None and unknown:
        return Unavailable(
            f"Read model '{table.model.name}' is now declared to be found or ordered by {', '.join(unknown)} as well. "
            "Restart this process with the same modules as the one that declared it."
        )
    return conflict(change, state)


def _columns(table: MongoTable) -> list[str]:
    return sorted(table.column_names.values())

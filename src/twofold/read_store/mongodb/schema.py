"""The schema of a read store in MongoDB: collections, columns and indexes are created, and changed to what is declared.

An index holds the filtered fields, the order's field and the key of live rows: no index of finds holds deleted ones.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.errors import OperationFailure

from twofold.read_store.corruption import decode_at_start
from twofold.read_store.mongodb.checkpoints import MongoCheckpoints
from twofold.read_store.mongodb.connection import Collection, MongoConnection
from twofold.read_store.mongodb.errors import INDEX_NOT_FOUND
from twofold.read_store.mongodb.rows import LIVE, ROW_INDEX, MongoTable
from twofold.read_store.mongodb.schema_names import IDENTITY, PARKED

_PAGE = 1_000
_EXPIRY = IndexModel(
    [("_d", ASCENDING)],
    name="forget",
    expireAfterSeconds=7 * 86_400,
    partialFilterExpression={"_d": {"$exists": True}},
)
"""Removes what was deleted a week ago."""


async def identity_of(connection: MongoConnection, new: str | None) -> str:
    """The identity that is stored in a database. If there is none yet, `new` is stored; "" without a new one."""
    collection = connection.collection(IDENTITY, latest=True)
    while True:
        identity = await connection.retry(lambda: collection.find_one({}))
        if identity is not None or new is None:
            return str(identity["id"]) if identity else ""
        # With one fixed `_id`, so that one of several nodes succeeds.
        await connection.insert_if_absent(collection, {"_id": 0, "id": new})


async def prepare(connection: MongoConnection, checkpoints: MongoCheckpoints, table: MongoTable) -> None:
    """Create a model, or change its columns and indexes to what it declares now.

    After the first step, no process begins to save rows without the columns. When the saves that were under way have
    ended, no more rows come that lack them.
    WiringError, with the fix, if the stored rows no longer fit the row type.
    """
    document = await checkpoints.declare(table)
    rows = connection.collection(table.collection)
    if not document.filled:
        await checkpoints.wait_for_saves(table)
        await _fill_columns(connection, table, rows)
        await checkpoints.mark_filled(table)
    await _index(connection, table, rows)
    stored = await connection.retry(lambda: rows.find_one(LIVE, hint=ROW_INDEX))
    if stored is not None:
        decode_at_start(table.row, stored)


async def missing(connection: MongoConnection, checkpoints: MongoCheckpoints, table: MongoTable) -> str | None:
    """What a reader would lack: "collection", "column" or "index"; None if all is there."""
    document = await checkpoints.document(table.id)
    if document is None:
        return "collection"
    if not (document.filled and set(table.column_names.values()) <= set(document.columns)):
        return "column"
    known = await connection.retry(lambda: _index_names(connection.collection(table.collection)))
    return None if known >= indexes(table).keys() else "index"


def indexes(table: MongoTable) -> dict[str, IndexModel]:
    models = [_index_model(table, fields) for fields in table.indexed] + [_EXPIRY]
    return {model.document["name"]: model for model in models}


def _index_model(table: MongoTable, fields: Sequence[str]) -> IndexModel:
    keys = [(table.path(field), ASCENDING) for field in fields]
    # An index of the key alone would be the one that every collection has, which holds deleted rows as well.
    keys += [("_id", ASCENDING), *([] if fields else [("_d", ASCENDING)])]
    return IndexModel(keys, name=table.index_name(fields), partialFilterExpression=dict(LIVE))


async def _fill_columns(connection: MongoConnection, table: MongoTable, rows: Collection) -> None:
    lacking: dict[str, Any] = {"$or": [{table.path(field): {"$exists": False}} for field in table.columns], **LIVE}
    while table.columns:
        page = await connection.retry(lambda: rows.find(lacking).sort("_id").limit(_PAGE).to_list())
        if not page:
            return
        updates: list[UpdateOne] = []
        for document in page:
            row = decode_at_start(table.row, document)
            if row is None:
                # A corrupt row stays without columns, which an audit finds.
                continue
            values = {f"c.{name}": value for name, value in table.values(row).items()}
            # A row that has been saved since has all of its columns.
            unchanged = {name: document[name] for name in ("_id", "_r", "_p")}
            updates.append(UpdateOne(unchanged, {"$set": values}))
        if updates:
            await connection.retry(partial(rows.bulk_write, updates, ordered=False))
        lacking["_id"] = {"$gt": page[-1]["_id"]}


async def _index(connection: MongoConnection, table: MongoTable, rows: Collection) -> None:
    declared = indexes(table)
    known = await connection.retry(lambda: _index_names(rows))
    for name in sorted(known - declared.keys()):
        # Indexes with other names are not ours.
        if name.startswith(ROW_INDEX):
            await connection.retry(partial(_drop_index, rows, name), bounded=False)
    new = [index for name, index in declared.items() if name not in known]
    if new:
        await connection.retry(lambda: rows.create_indexes(new), bounded=False)
    parked = connection.collection(PARKED)
    if _EXPIRY.document["name"] not in await connection.retry(lambda: _index_names(parked)):
        await connection.retry(lambda: parked.create_indexes([_EXPIRY]), bounded=False)


async def _index_names(collection: Collection) -> set[str]:
    return {index["name"] async for index in await collection.list_indexes()}


async def _drop_index(collection: Collection, name: str) -> None:
    try:
        await collection.drop_index(name)
    except OperationFailure as error:
        # Another node was faster.
        if error.code != INDEX_NOT_FOUND:
            raise

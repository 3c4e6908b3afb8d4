"""Saving a change, so that no older version of a row or a parked key takes the place of a newer one.

A save is several writes, the checkpoint last. If it is interrupted, rows are ahead of the checkpoint, and the same
events come again: they carry the same versions, and so change nothing.

A document is replaced only if the server, while it updates the document, finds it older: a plain update by `_id`. A
query that includes the version would take twice the time, and an upsert that comes too late would fail as a duplicate.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from twofold.read_store import refusals
from twofold.read_store.mongodb.checkpoints import MongoCheckpoints
from twofold.read_store.mongodb.connection import MongoConnection
from twofold.read_store.mongodb.errors import DUPLICATE_KEY
from twofold.read_store.mongodb.rows import MongoTable, moment
from twofold.read_store.mongodb.schema_names import PARKED
from twofold.read_store.port import Change, Parked, VersionedRow


async def save(connection: MongoConnection, checkpoints: MongoCheckpoints, table: MongoTable, change: Change) -> None:
    documents = table.documents(change.rows, change.now)
    parked = [_parked_update(table, change, key, parked) for key, parked in change.parked.items()]
    if not documents and not parked:
        await checkpoints.advance(table, change)
        return
    async with checkpoints.saving(table, change) as save_id:
        await write_rows(connection, table, change, documents)
        await _update(connection, PARKED, parked)
        await checkpoints.advance(table, change, save_id)


async def write_rows(
    connection: MongoConnection, table: MongoTable, change: Change, documents: Sequence[RawBSONDocument]
) -> None:
    """Write the rows of a change, given as `MongoTable.documents` returned them."""
    new: list[RawBSONDocument] = []
    updates: list[UpdateOne] = []
    for (key, versioned), document in zip(change.rows.items(), documents, strict=True):
        # A key that had a row before has previous rows. An insert is several times as fast as an update.
        if versioned.row is not None and not versioned.previous_rows:
            new.append(document)
        else:
            updates.append(_row_update(key, versioned, document))
    rows = connection.collection(table.collection)
    if new:
        for n in await connection.retry(partial(_duplicates, rows.insert_many, new)):
            key = new[n]["_id"]
            updates.append(_row_update(key, change.rows[key], new[n]))
    await _update(connection, table.collection, updates)


async def _update(connection: MongoConnection, collection: str, updates: Sequence[UpdateOne]) -> None:
    if updates:
        write = connection.collection(collection).bulk_write
        duplicates = await connection.retry(partial(_duplicates, write, updates))
        # A duplicate was inserted by another process at the same moment: now it is there, and can be updated.
        await _update(connection, collection, [updates[n] for n in duplicates])


async def _duplicates(write: Callable[..., Awaitable[object]], items: Sequence[object]) -> list[int]:
    """Which of some writes fail because a document with that `_id` exists. Raises any other error."""
    try:
        await write(items, ordered=False)
    except BulkWriteError as error:
        failures = error.details["writeErrors"]
        if error.details["writeConcernErrors"] or any(failure["code"] != DUPLICATE_KEY for failure in failures):
            raise
        return [failure["index"] for failure in failures]
    return []


def _row_update(key: str, versioned: VersionedRow, document: RawBSONDocument) -> UpdateOne:
    older = {"$lt": [["$_r", "$_p"], [versioned.repair, versioned.position]]}
    return _replace_if(older, key, document)


def _parked_update(table: MongoTable, change: Change, key: str, parked: Parked | None) -> UpdateOne:
    """A parked key or, if None, a mark that stays in its place for a while. What a later epoch wrote stays.

    InvalidMessage for a key that cannot be stored.
    """
    identity = f"{table.id}/{key}"
    document: dict[str, Any] = {"_id": identity, "_e": change.epoch}
    if parked is None:
        document |= {"_d": moment(change.now)}
    else:
        document |= msgspec.structs.asdict(parked) | {"error": parked.error.encode(errors="backslashreplace").decode()}
        del document["key"]
    try:
        identity.encode()
    except UnicodeEncodeError as error:
        raise refusals.cannot_store(table.model, key, error) from error
    return _replace_if({"$lte": ["$_e", change.epoch]}, identity, document)


def _replace_if(older: Mapping[str, Any], identity: str, document: Mapping[str, Any]) -> UpdateOne:
    replaced = {"$cond": [older, {"$literal": document}, "$$ROOT"]}
    return UpdateOne({"_id": identity}, [{"$replaceWith": replaced}], upsert=True)

"""In charge of writing rows and parked keys so that no older version takes the place of a newer one.

A document is replaced where the server, having it in hand, finds it older: one plain update by `_id`. With the version
among what is searched for it takes twice the time, and an upsert that comes too late fails as a duplicate.
"""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError

from twofold.errors import InvalidMessage
from twofold.read_store.mongodb.client import Client
from twofold.read_store.mongodb.finds import Table
from twofold.read_store.mongodb.names import PARKED
from twofold.read_store.mongodb.rows import moment
from twofold.read_store.port import Change, Parked

_DUPLICATE = 11_000

_Document = Mapping[str, Any]


async def write_rows(client: Client, table: Table, change: Change, documents: Sequence[RawBSONDocument]) -> None:
    """Write the rows of a change, given as `Table.documents` made them."""
    new: list[RawBSONDocument] = []
    updates: list[UpdateOne] = []
    for (key, kept), document in zip(change.rows.items(), documents, strict=True):
        # What was there before has passed rows. To insert is several times as fast as to update.
        if kept.row is not None and not kept.previous_rows:
            new.append(document)
        else:
            updates.append(_row(key, kept.repair, kept.position, document))
    rows = client.collection(table.collection)
    if new:
        for n in await client.patiently(lambda: _duplicates(rows.insert_many(new, ordered=False))):
            kept = change.rows[key := new[n]["_id"]]
            updates.append(_row(key, kept.repair, kept.position, new[n]))
    await _update(client, table.collection, updates)


def parked_updates(table: Table, change: Change) -> list[UpdateOne]:
    """What `write_parked` takes. InvalidMessage for a key that cannot be stored."""
    return [_parked(table, change, key, parked) for key, parked in change.parked.items()]


async def write_parked(client: Client, updates: Sequence[UpdateOne]) -> None:
    """Set keys aside, or take them out of the car park."""
    await _update(client, PARKED, updates)


async def _update(client: Client, collection: str, updates: Sequence[UpdateOne]) -> None:
    while updates:
        # Duplicates are what others made at the same moment: now it is there, and can be updated.
        updates = [updates[n] for n in await _try(client, collection, updates)]


async def _try(client: Client, collection: str, updates: Sequence[UpdateOne]) -> list[int]:
    target = client.collection(collection)
    return await client.patiently(lambda: _duplicates(target.bulk_write(updates, ordered=False)))


async def _duplicates(writing: Awaitable[object]) -> list[int]:
    """Which of some writes were refused because there is a document of that `_id`. Raises for any other reason."""
    try:
        await writing
    except BulkWriteError as error:
        refused = error.details["writeErrors"]
        if error.details["writeConcernErrors"] or any(each["code"] != _DUPLICATE for each in refused):
            raise
        return [each["index"] for each in refused]
    return []


def _row(key: str, repair: int, position: int, document: _Document) -> UpdateOne:
    return _replaced_where(key, {"$lt": [["$_r", "$_p"], [repair, position]]}, document)


def _parked(table: Table, change: Change, key: str, parked: Parked | None) -> UpdateOne:
    """A key parked or, if None, a mark that stays for a while in its place. What a later epoch wrote stays as it is."""
    identity = f"{table.id}/{key}"
    document: dict[str, Any] = {"_id": identity, "_e": change.epoch}
    if parked is None:
        document |= {"_d": moment(change.now)}
    else:
        document |= {
            "position": parked.position,
            "error": parked.error.encode(errors="backslashreplace").decode(),
            "since": parked.since,
            "waiting": parked.waiting,
            "upto": parked.upto,
        }
    try:
        identity.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(f"Key {key!r} of '{table.model.name}' cannot be stored: {error}.") from error
    return _replaced_where(identity, {"$lte": ["$_e", change.epoch]}, document)


def _replaced_where(identity: str, older: _Document, document: _Document) -> UpdateOne:
    replaced = {"$cond": [older, {"$literal": document}, "$$ROOT"]}
    return UpdateOne({"_id": identity}, [{"$replaceWith": replaced}], upsert=True)

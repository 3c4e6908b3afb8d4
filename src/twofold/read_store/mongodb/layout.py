"""In charge of what a database of read models contains: collections made, and brought up to what is declared now."""

import logging
from functools import partial
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError, OperationFailure

from twofold.errors import Unavailable
from twofold.read_store.mongodb.client import Client, Collection
from twofold.read_store.mongodb.finds import BY_KEY, FORGET, FORGETTING, LIVE, Table
from twofold.read_store.mongodb.names import IDENTITY, PARKED
from twofold.read_store.mongodb.standing import Standings

log = logging.getLogger(__name__)

_PAGE = 1_000
_INDEX_NOT_FOUND = 27


async def identity_of(client: Client, new: str | None) -> str:
    """The identity that is kept in a database; where there is none yet it is `new`, and "" without a new one."""
    return await client.patiently(lambda: _identity_of(client.collection(IDENTITY, latest=True), new))


async def prepare(client: Client, standings: Standings, table: Table) -> None:
    """Make a model, or bring its columns and indexes up to what it declares now.

    From the first step on nobody begins to save rows without the columns: when those who had begun have ended, no more
    rows come that lack them.
    WiringError, naming the cure, where the rows stored no longer fit the row type.
    """
    standing = await standings.declare(table)
    rows = client.collection(table.collection)
    if not standing.filled:
        await standings.quiet(table)
        await _fill(client, table, rows)
        await standings.filled(table)
    await _index(client, table, rows)
    stored = await client.patiently(lambda: rows.find_one(LIVE, hint=BY_KEY))
    if stored is not None:
        table.check(stored)


async def missing(client: Client, standings: Standings, table: Table) -> str | None:
    """What a reader would miss, as a word: "collection", "column" or "index"; None where all is there."""
    standing = await standings.of(table)
    if standing is None:
        return "collection"
    if not (standing.filled and set(table.column_names.values()) <= set(standing.columns)):
        return "column"
    known = await client.patiently(lambda: _names(client.collection(table.collection)))
    return None if known >= table.indexes.keys() else "index"


async def _identity_of(identity: Collection, new: str | None) -> str:
    while True:
        found = await identity.find_one({})
        if found is not None or new is None:
            return str(found["id"]) if found else ""
        try:
            # There is room for one, so that of two nodes one makes it.
            await identity.insert_one({"_id": 0, "id": new})
        except DuplicateKeyError:
            continue


async def _fill(client: Client, table: Table, rows: Collection) -> None:
    """Give all rows the columns they lack."""
    lacking: dict[str, Any] = {"$or": [{table.path(field): {"$exists": False}} for field in table.columns], **LIVE}
    while table.columns:
        found = await client.patiently(lambda: rows.find(lacking).sort("_id").limit(_PAGE).to_list())
        if not found:
            return
        updates: list[UpdateOne] = []
        for document in found:
            table.check(document)
            try:
                row = table.row(document)
            except Unavailable as error:
                # It stays without columns, which an audit finds.
                log.warning("%s", error)
                continue
            values = {f"c.{name}": value for name, value in table.values(row).items()}
            # One that has been saved since has all of its columns.
            same = {name: document[name] for name in ("_id", "_r", "_p")}
            updates.append(UpdateOne(same, {"$set": values}))
        if updates:
            await client.patiently(partial(rows.bulk_write, updates, ordered=False))
        lacking["_id"] = {"$gt": found[-1]["_id"]}


async def _index(client: Client, table: Table, rows: Collection) -> None:
    known = await client.patiently(lambda: _names(rows))
    for name in sorted(known - table.indexes.keys()):
        # Those of other names are somebody else's.
        if name.startswith(BY_KEY):
            await client.patiently(partial(_drop, rows, name), bounded=False)
    new = [index for name, index in table.indexes.items() if name not in known]
    if new:
        await client.patiently(lambda: rows.create_indexes(new), bounded=False)
    parked = client.collection(PARKED)
    if FORGET not in await client.patiently(lambda: _names(parked)):
        await client.patiently(lambda: parked.create_indexes([FORGETTING]), bounded=False)


async def _names(collection: Collection) -> set[str]:
    return {index["name"] async for index in await collection.list_indexes()}


async def _drop(collection: Collection, name: str) -> None:
    try:
        await collection.drop_index(name)
    except OperationFailure as error:
        # Another node was faster.
        if error.code != _INDEX_NOT_FOUND:
            raise

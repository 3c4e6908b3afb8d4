"""Snapshots: a session of the driver, in which each read sees the moment of the first one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar, Unpack

from twofold.errors import InvalidMessage
from twofold.read_store.access import check_access, fetch_until, find_page
from twofold.read_store.mongodb.checkpoints import checkpoint_and_row, is_parked, model_progress
from twofold.read_store.mongodb.connection import MongoConnection
from twofold.read_store.mongodb.errors import SNAPSHOT_UNAVAILABLE
from twofold.read_store.mongodb.finds import MongoFind
from twofold.read_store.mongodb.rows import MongoDocument, MongoTable
from twofold.read_store.mongodb.schema_names import CHECKPOINTS
from twofold.read_store.port import FindOptions, FindPage, Lookup, Native, Progress, ReadModel
from twofold.read_store.refusals import prepared

T = TypeVar("T")


class MongoSnapshot:
    """All rows and checkpoints as of one moment, that of the first read."""

    def __init__(self, connection: MongoConnection, tables: Mapping[tuple[str, int], MongoTable]) -> None:
        self._connection = connection
        self._tables = tables
        self._session = connection.session()
        self._first = asyncio.Lock()
        self._taken = False

    async def get(self, model: ReadModel, key: str) -> Any | None:
        table = prepared(self._tables, model)
        rows = self._connection.collection(table.collection)
        check_text(model, key)
        document = await self._read(lambda: rows.find_one({"_id": key}, session=self._session))
        return None if document is None else table.row(document)

    async def lookup(self, model: ReadModel, key: str) -> Lookup:
        """The row of a key and the progress of its model, in one request."""
        table = prepared(self._tables, model)
        check_text(model, key)
        read = partial(checkpoint_and_row, self._connection, table, key, self._session)
        checkpoint, row = await self._read(read)
        return Lookup(model_progress(checkpoint), None if row is None else table.row(row))

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        table = prepared(self._tables, model)
        access = check_access(model, table.columns, filters, **options)
        find = MongoFind(table, access)
        rows = self._connection.collection(table.collection)

        async def run(query: MongoDocument, count: int) -> list[MongoDocument]:
            cursor = rows.find(query, {"_r": 0, "_p": 0}, session=self._session).sort(find.sort).hint(find.index)
            # In one response, which ends with the last row.
            return await cursor.limit(count).batch_size(count + 1).to_list()

        async def fetch(query: MongoDocument, count: int) -> list[MongoDocument]:
            return await self._read(partial(run, query, count))

        return await find_page(
            access,
            lambda count: fetch_until(count, find.queries(), fetch),
            lambda document: (document["_id"], table.row(document)),
        )

    async def progress(self, model: ReadModel) -> Progress:
        """See `Snapshot.progress`. It is never behind the rows: it is of the same moment."""
        model_id, documents = prepared(self._tables, model).id, self._connection.collection(CHECKPOINTS)
        return model_progress(await self._read(lambda: documents.find_one({"_id": model_id}, session=self._session)))

    async def is_parked(self, model: ReadModel, key: str) -> bool:
        read = partial(is_parked, self._connection, prepared(self._tables, model).id, key, self._session)
        return await self._read(read)

    def native(self, model: ReadModel) -> Native:
        """The database, the name of the model's collection in it, and the session for reading in this snapshot.

        Documents are as `rows` describes them: `{"c": {"$exists": True}}` are the rows that are not deleted.
        """
        return Native(self._connection.database, prepared(self._tables, model).collection, self._session)

    async def end(self) -> None:
        """End the session. A response that is still under way may arrive later."""
        await self._session.end_session()

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self._connection.tasks.run(self._read_at_one_moment(call))

    async def _read_at_one_moment(self, call: Callable[[], Awaitable[T]]) -> T:
        if self._taken:
            return await self._connection.retry(call)
        # Two first reads at once would each get a moment of their own.
        async with self._first:
            result = await self._connection.retry(call, also=frozenset({SNAPSHOT_UNAVAILABLE}))
            self._taken = True
            return result


def check_text(model: ReadModel, *keys: str) -> None:
    """InvalidMessage for a key that is not valid Unicode, which cannot be stored."""
    try:
        "".join(keys).encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(f"There is no such key of '{model.name}': {error}.") from error

"""In charge of reading as of one moment: a session of the driver, in which each read is of the time of the first."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from bson.int64 import Int64

from twofold.errors import InvalidMessage
from twofold.read_store.access import check_access
from twofold.read_store.mongodb.client import Client, Document
from twofold.read_store.mongodb.finds import Find, Table
from twofold.read_store.mongodb.names import CHECKPOINTS
from twofold.read_store.mongodb.progress import progress_of, reading
from twofold.read_store.port import FindPage, Native, Progress, ReadModel

T = TypeVar("T")

_NOT_YET = frozenset({246})
"""A collection or index is younger than what the majority has: a moment later it will not be."""


class MongoSnapshot:
    """All rows and checkpoints as of one moment, that of the first question."""

    def __init__(self, client: Client, table_of: Callable[[ReadModel], Table]) -> None:
        self._client = client
        self._table_of = table_of
        self._session = client.session()
        self._first = asyncio.Lock()
        self._taken = False

    async def get(self, model: ReadModel, key: str) -> Any | None:
        table = self._table_of(model)
        rows = self._client.collection(table.collection)
        check_text(model, key)
        found = await self._read(lambda: rows.find_one({"_id": key}, session=self._session))
        return None if found is None else table.row(found)

    async def find(
        self,
        model: ReadModel,
        filters: Mapping[str, Any],
        *,
        order_by: str | None = None,
        descending: bool = False,
        limit: int,
        cursor: str | None = None,
    ) -> FindPage:
        table = self._table_of(model)
        access = check_access(model, table.columns, filters, order_by, descending, limit, cursor)
        if access.matches_nothing:
            return FindPage([], None)
        find = Find(table, access)
        found: list[Document] = []
        for step in find.steps():
            # One more than asked for tells whether there is a next page.
            found += await self._read(partial(self._rows, table, find, step, limit + 1 - len(found)))
            if len(found) > limit:
                break
        page = [(each["_id"], table.row(each)) for each in found[:limit]]
        if len(found) <= limit:
            return FindPage(page, None)
        last = found[limit - 1]
        value = last["c"][table.column_names[access.order]] if access.order else None
        return FindPage(page, access.cursor(int(value) if isinstance(value, Int64) else value, last["_id"]))

    async def progress(self, model: ReadModel) -> Progress:
        """See `Snapshot.progress`. It is never behind the rows: of one moment as well."""
        table = self._table_of(model)
        return progress_of(await self._read(lambda: self._standing(table)))

    def native(self, model: ReadModel) -> Native:
        """The database, the name of the model's collection in it, and the session for reading in this snapshot.

        What `rows` says about documents holds: `{"c": {"$exists": True}}` are the rows that are there.
        """
        return Native(self._client.database, self._table_of(model).collection, self._session)

    async def end(self) -> None:
        """Give the session back. An answer that nobody waits for any more may still come in it."""
        await self._session.end_session()

    async def _rows(self, table: Table, find: Find, step: Mapping[str, Any], limit: int) -> list[Document]:
        rows = self._client.collection(table.collection)
        asked = rows.find(step, {"_r": 0, "_p": 0}, session=self._session).sort(find.sort).hint(find.index)
        # In one answer, which ends with the last row.
        return await asked.limit(limit).batch_size(limit + 1).to_list()

    async def _standing(self, table: Table) -> list[Document]:
        checkpoints = self._client.collection(CHECKPOINTS)
        return await (await checkpoints.aggregate(reading(table.id), session=self._session)).to_list()

    async def _read(self, work: Callable[[], Awaitable[T]]) -> T:
        return await self._client.uncancelled(self._ask(work))

    async def _ask(self, work: Callable[[], Awaitable[T]]) -> T:
        if self._taken:
            return await self._client.patiently(work)
        # Of two first questions at once, each would get a moment of its own.
        async with self._first:
            answer = await self._client.patiently(work, also=_NOT_YET)
            self._taken = True
            return answer


def check_text(model: ReadModel, *keys: str) -> None:
    """InvalidMessage where a key is text that nobody can store."""
    try:
        "".join(keys).encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(f"There is no such key of '{model.name}': {error}.") from error

"""Finds: the queries that return the rows of one find in order, and how the cursor continues them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pymongo import ASCENDING, DESCENDING

from twofold.read_store.access import Access
from twofold.read_store.columns import ColumnValue
from twofold.read_store.mongodb.rows import LIVE, MongoTable

_LEAST: Mapping[tuple[type, ...], ColumnValue] = {(int, float): -math.inf, (str,): ""}
"""Before all column values of these types. A comparison matches values of one type only."""


class MongoFind:
    """One find: the queries to run, one after another until there are enough rows, and their order and index."""

    def __init__(self, table: MongoTable, access: Access) -> None:
        direction = DESCENDING if access.descending else ASCENDING
        self.order = table.path(access.order) if access.order else None
        self.sort = [*([(self.order, direction)] if self.order else []), ("_id", direction)]
        self.index = table.index_for(access.group, access.order)
        self._access = access
        self._equal = {
            table.path(field): _equal(value) for field, value in zip(access.group, access.values, strict=True)
        }
        self._least = _LEAST[table.columns[access.order].stored_as] if access.order else None

    def queries(self) -> Iterator[dict[str, Any]]:
        """Conditions whose rows follow one another. A range never holds None and values alike, hence up to three."""
        for range_ in self._ranges():
            yield {**self._equal, **range_, **LIVE}

    def _ranges(self) -> Iterator[dict[str, Any]]:
        beyond = "$lt" if self._access.descending else "$gt"
        if self._access.after is None:
            yield {}
            return
        value, key = self._access.after
        if self.order is None:
            yield {"_id": {beyond: key}}
            return
        yield {self.order: _equal(value), "_id": {beyond: key}}
        if value is not None:
            yield {self.order: {beyond: value}}
            if self._access.descending:
                yield {self.order: _equal(None)}
        elif not self._access.descending:
            yield {self.order: {"$gte": self._least}}


def _equal(value: ColumnValue) -> dict[str, Any]:
    # With an operator, so that no value is read as one. `$eq: null` would match the type "undefined" too, and so take
    # two ranges of an index.
    return {"$type": "null"} if value is None else {"$eq": value}

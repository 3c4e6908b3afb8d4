"""In charge of how rows are found: an index for each declared access, and what is asked of it.

An index holds the filtered fields, the order's field and the key, of rows that are there: deleted ones are in none.
MongoDB keeps 64 indexes of a collection. Where a model declares so many filters and orders that their combinations are
more, the last combinations are found by their filter's index, and sorted by the server.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel

from twofold.errors import WiringError
from twofold.read_store.access import Access
from twofold.read_store.columns import ColumnValue
from twofold.read_store.mongodb.rows import Rows
from twofold.read_store.port import ReadModel

LIVE: Mapping[str, Any] = {"c": {"$exists": True}}
"""What only rows have that are there."""

FORGET = "forget"
BY_KEY = "find"
"""Names of indexes: that which takes deleted rows away in the end, and that of rows by key."""

_KEPT_DELETED = 7 * 86_400  # seconds
_MOST = 62
"""64, without that of the keys, which every collection has, and that of deleted rows."""

FORGETTING = IndexModel(
    [("_d", ASCENDING)],
    name=FORGET,
    expireAfterSeconds=_KEPT_DELETED,
    partialFilterExpression={"_d": {"$exists": True}},
)
"""Takes away what was deleted a week ago."""


class Table(Rows):
    """One read model as MongoDB keeps it, and its indexes, by name.

    WiringError where it has no name, columns or JSON that could be kept, or declares more than MongoDB has indexes for.
    """

    def __init__(self, model: ReadModel) -> None:
        super().__init__(model)
        needed = list(dict.fromkeys([(), *model.find_by, *((order,) for order in model.order_by)]))
        both = [(*group, order) for group, order in product(model.find_by, model.order_by) if order not in group]
        if len(needed) > _MOST:
            raise WiringError(
                f"The projection '{model.name}' declares {len(needed) - 1} filters and orders, but MongoDB keeps "
                f"indexes for {_MOST - 1}. Declare fewer, or keep this read model elsewhere."
            )
        fields = list(dict.fromkeys([*needed, *both]))[:_MOST]
        self.indexes = {self._name(each): self._index(each) for each in fields} | {FORGET: FORGETTING}

    def path(self, field: str) -> str:
        """Where the column value of a field is in a document."""
        return f"c.{self.column_names[field]}"

    def serving(self, group: Sequence[str], order: str | None) -> str:
        """The name of the index for a filter and an order: that of both, or at least of the filter."""
        wanted = self._name((*group, *([order] if order else [])))
        return wanted if wanted in self.indexes else self._name(group)

    def _index(self, fields: Sequence[str]) -> IndexModel:
        keys = [(self.path(field), ASCENDING) for field in fields]
        # An index of the key alone would be the one that holds deleted rows as well.
        keys += [("_id", ASCENDING), *([] if fields else [("_d", ASCENDING)])]
        return IndexModel(keys, name=self._name(fields), partialFilterExpression=dict(LIVE))

    def _name(self, fields: Sequence[str]) -> str:
        return " ".join([BY_KEY, ",".join(self.column_names[field] for field in fields)]).rstrip()


class Find:
    """One find: the steps to take, one by one until there are enough rows, and how they are to be read."""

    def __init__(self, table: Table, access: Access) -> None:
        direction = DESCENDING if access.descending else ASCENDING
        self.order = table.path(access.order) if access.order else None
        self.sort = [*([(self.order, direction)] if self.order else []), ("_id", direction)]
        self.index = table.serving(access.group, access.order)
        self._access = access
        self._equal = {
            table.path(field): _equal(value) for field, value in zip(access.group, access.values, strict=True)
        }
        self._least = _LEAST[table.columns[access.order].stored_as] if access.order else None

    def steps(self) -> Iterator[dict[str, Any]]:
        """Filters, whose rows follow one another. A range never holds None and values alike, hence up to three."""
        for step in self._continued():
            yield {**self._equal, **step, **LIVE}

    def _continued(self) -> Iterator[dict[str, Any]]:
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
    # Said as a comparison, so that no value is read as one. That of None would include a type which is none of ours,
    # and so take two ranges of an index.
    return {"$type": "null"} if value is None else {"$eq": value}


_LEAST: Mapping[tuple[type, ...], ColumnValue] = {(int, float): -math.inf, (str,): ""}
"""Before all column values of these types. A comparison meets values of its own type only."""

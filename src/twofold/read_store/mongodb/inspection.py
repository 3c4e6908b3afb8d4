"""Reading raw documents of rows, for audits: whatever a document holds, reading it does not fail."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from twofold.read_store.corruption import NO_JSON, DecodedRow, RawRowReader, raw_row
from twofold.read_store.mongodb.connection import MongoConnection
from twofold.read_store.mongodb.rows import json_of
from twofold.read_store.mongodb.schema_names import field_and_kind, rows_collection
from twofold.read_store.port import RawRow, ReadModel

NOT_DELETED: Mapping[str, Any] = {"_d": {"$exists": False}}
"""The condition for rows that are not deleted, also those that no find returns any more."""


class MongoRowInspector:
    """Reads the raw rows of one model. `columns` are those that every row must have; `model` None is not known here."""

    def __init__(
        self, connection: MongoConnection, model_id: str, columns: Iterable[str], model: ReadModel | None
    ) -> None:
        self._connection = connection
        self._rows = connection.collection(rows_collection(model_id))
        self._columns = {name: field_and_kind(name) for name in columns}
        self._reader = RawRowReader({field: (kind,) for field, kind in self._columns.values()}, model)

    async def rows(self, condition: Mapping[str, Any], limit: int) -> list[tuple[str, RawRow]]:
        """At most `limit` raw rows that fulfil a condition, in the order of their keys."""
        find = self._rows.find
        documents = await self._connection.retry(lambda: find(condition).sort("_id").limit(limit).to_list())
        return [(str(document["_id"]), self._raw_row(document)) for document in documents]

    def _raw_row(self, document: Mapping[str, Any]) -> RawRow:
        position, repair = document.get("_p"), document.get("_r")
        if "_d" in document:
            return raw_row(DecodedRow(None, {}), position, repair, {})
        columns = document.get("c")
        stored = cast("dict[str, Any]", columns) if isinstance(columns, dict) else {}
        values: dict[str, object] = {
            field: stored.get(name, msgspec.UNSET) for name, (field, _) in self._columns.items()
        }
        return raw_row(self._read(document), position, repair, values)

    def _read(self, document: Mapping[str, Any]) -> DecodedRow:
        try:
            text = json_of(document)
        except (TypeError, ValueError, OverflowError):
            # Twofold never stores values of types that only MongoDB has.
            return DecodedRow(None, {}, NO_JSON)
        return DecodedRow(None, {}, "There is no row in its document.") if text is None else self._reader.read(text)

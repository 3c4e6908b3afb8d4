"""In charge of looking at documents of rows, whatever has become of them."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from twofold.read_store.corruption import NO_JSON, DecodedRow, RawRowReader, raw_row
from twofold.read_store.mongodb.names import field_and_kind
from twofold.read_store.mongodb.rows import json_of
from twofold.read_store.port import RawRow, ReadModel

NOT_GONE: Mapping[str, Any] = {"_d": {"$exists": False}}
"""What all rows have that are there, also such as no find finds any more."""


class Looking:
    """Looks at the rows of one model. `columns` are those that every row must have; `model` is known or not."""

    def __init__(self, columns: Iterable[str], model: ReadModel | None) -> None:
        self._columns = {name: field_and_kind(name) for name in columns}
        self._reader = RawRowReader({field: (kind,) for field, kind in self._columns.values()}, model)

    def stored(self, document: Mapping[str, Any]) -> RawRow:
        """What is stored of a row, or of one that was deleted."""
        position, repair = document.get("_p"), document.get("_r")
        if "_d" in document:
            return raw_row(DecodedRow(None, {}), position, repair, {})
        columns = document.get("c")
        there = cast("dict[str, Any]", columns) if isinstance(columns, dict) else {}
        found: dict[str, object] = {field: there.get(name, msgspec.UNSET) for name, (field, _) in self._columns.items()}
        return raw_row(self._read(document), position, repair, found)

    def _read(self, document: Mapping[str, Any]) -> DecodedRow:
        try:
            text = json_of(document)
        except (TypeError, ValueError, OverflowError):
            # No row of ours has values that only MongoDB knows.
            return DecodedRow(None, {}, NO_JSON)
        return DecodedRow(None, {}, "There is no row in its document.") if text is None else self._reader.read(text)

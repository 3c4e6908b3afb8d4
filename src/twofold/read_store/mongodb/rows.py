"""Rows as MongoDB documents: encoding, decoding, and the names of a read model's collection, columns and indexes.

_id     the key
_r, _p  the row's version: repair number and position
row     the row's JSON as a document, for native queries; or, if no document can hold it exactly,
json    its JSON text
c       the column values of declared fields, by which rows are found and ordered
_d      in place of row and c: when the row was deleted. The document stays for a week, so that an older version that
        is written late does not bring the row back
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, cast

import bson
import msgspec
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from twofold.errors import InvalidMessage, WiringError
from twofold.read_store import refusals
from twofold.read_store.columns import ColumnValue, columns_of
from twofold.read_store.corruption import DECODE_ERRORS, corrupt_row, row_decoder
from twofold.read_store.mongodb.schema_names import column_name, id_of, rows_collection
from twofold.read_store.port import ReadModel, VersionedRow

MongoDocument = dict[str, Any]

LIVE: Mapping[str, Any] = {"c": {"$exists": True}}
"""The condition for rows that are not deleted."""

ROW_INDEX = "find"
"""The name of the index of rows by key. The names of all other indexes of rows begin with it."""

MAX_DOCUMENT_BYTES = 16 * 2**20 - 2**14
"""A statement that writes a document has 16 MB, for the document and for what the statement says about it."""

_MAX_DEPTH = 100
_MAX_INDEXES = 62
"""MongoDB's limit of 64, without the index of the keys, which every collection has, and that of deleted rows."""

_encode = msgspec.json.Encoder().encode
# The driver returns integers of 64 bits as a separate type.
_encode_document = msgspec.json.Encoder(enc_hook=int).encode
_decode_json = msgspec.json.Decoder().decode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class MongoTable:
    """One read model as MongoDB stores it. `indexed` are the combinations of fields that have an index.

    MongoDB allows 64 indexes for a collection. If a model declares so many filters and orders that their combinations
    are more, the last combinations are found by the index of their filter, and sorted by the server.

    WiringError if its name, columns or JSON cannot be stored, or if it declares more than MongoDB has indexes for.
    """

    def __init__(self, model: ReadModel) -> None:
        self.model = model
        self.id = id_of(model.name, model.generation)
        self.collection = rows_collection(self.id)
        self.columns = columns_of(model)
        self.column_names = {field: column_name(field, column.kind) for field, column in self.columns.items()}
        self.indexed = _indexed(model)
        self._decode = row_decoder(model)
        self._columns = [(self.column_names[f], c.get, c.plain, c.value) for f, c in self.columns.items()]
        try:
            model.name.encode()
        except UnicodeEncodeError as error:
            raise WiringError(f"The read model name {model.name!r} is not valid Unicode: {error}.") from error

    def path(self, field: str) -> str:
        """Where the column value of a field is in a document."""
        return f"c.{self.column_names[field]}"

    def index_name(self, fields: Sequence[str]) -> str:
        return " ".join([ROW_INDEX, ",".join(self.column_names[field] for field in fields)]).rstrip()

    def index_for(self, group: tuple[str, ...], order: str | None) -> str:
        """The name of the index for a filter and an order: that of both, or at least that of the filter."""
        both = (*group, order) if order else group
        return self.index_name(both if both in self.indexed else group)

    def documents(self, rows: Mapping[str, VersionedRow], now: int) -> list[RawBSONDocument]:
        """Rows as documents, in order. InvalidMessage, with key and field, for the first that cannot be stored."""
        deleted_at = moment(now)
        documents: list[RawBSONDocument] = []
        for key, versioned in rows.items():
            document = {"_id": key, "_r": versioned.repair, "_p": versioned.position}
            try:
                if versioned.row is None:
                    encoded = bson.encode(document | {"_d": deleted_at})
                else:
                    encoded = self._encode(document, versioned.row)
            except (InvalidMessage, TypeError, ValueError, OverflowError, BSONError) as error:
                raise refusals.cannot_store(self.model, key, error) from error
            documents.append(RawBSONDocument(encoded))
        return documents

    def values(self, row: Any) -> dict[str, ColumnValue]:
        """The column values of a row, by column name. InvalidMessage if a field has none."""
        return {name: value(get(row)) for name, get, _, value in self._columns}

    def versioned_row(self, document: Mapping[str, Any]) -> VersionedRow:
        """The row with its version. CorruptRow, with the fix, if it cannot be read."""
        return VersionedRow(self.row(document), int(document["_p"]), int(document["_r"]))

    def row(self, document: Mapping[str, Any]) -> Any | None:
        """The row alone; None if it was deleted."""
        try:
            text = json_of(document)
        except DECODE_ERRORS as error:
            raise corrupt_row(self.model, error) from error
        return None if text is None else self._decode(text)

    def _encode(self, document: MongoDocument, row: Any) -> bytes:
        text = _encode(row)
        document["row"] = _decode_json(text)
        document["c"] = self._unchecked_values(row)
        encoded = _encode_exactly(text, document)
        if encoded is None:
            del document["row"]
            encoded = bson.encode({**document, "c": self.values(row), "json": text.decode()})
        if len(encoded) > MAX_DOCUMENT_BYTES:
            raise InvalidMessage(f"Its document takes {len(encoded):,} bytes. MongoDB allows {MAX_DOCUMENT_BYTES:,}")
        return encoded

    def _unchecked_values(self, row: Any) -> dict[str, ColumnValue]:
        """Like `values`, but faster: it does not check the size of integers, which encoding does."""
        values: dict[str, ColumnValue] = {}
        for name, get, plain, value in self._columns:
            own = get(row)
            # Python takes a bool for an int, MongoDB does not.
            values[name] = own if plain and type(own) in (str, int) else value(own)
        return values


def json_of(document: Mapping[str, Any]) -> bytes | str | None:
    """The JSON of a stored row; None if it was deleted."""
    if "row" in document:
        return _encode_document(document["row"])
    text: str | None = document.get("json")
    return text


def moment(microseconds: int) -> datetime:
    """Microseconds since 1970 in UTC as a date of MongoDB."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _indexed(model: ReadModel) -> list[tuple[str, ...]]:
    needed = list(dict.fromkeys([(), *model.find_by, *((order,) for order in model.order_by)]))
    both = [(*group, order) for group, order in product(model.find_by, model.order_by) if order not in group]
    if len(needed) > _MAX_INDEXES:
        raise WiringError(
            f"The projection '{model.name}' declares {len(needed) - 1} filters and orders, but MongoDB has indexes for "
            f"{_MAX_INDEXES - 1}. Declare fewer, or use another read store."
        )
    return list(dict.fromkeys([*needed, *both]))[:_MAX_INDEXES]


def _encode_exactly(text: bytes, document: MongoDocument) -> bytes | None:
    """A row's document as BSON; None if no document gives back what the row's JSON text says."""
    # The driver takes a document with this key for a reference, and returns it as such. (As a value it is harmless.)
    if b'"$ref"' in text:
        return None
    if text.count(b"{") + text.count(b"[") >= _MAX_DEPTH and _depth(document["row"]) >= _MAX_DEPTH:
        return None
    try:
        return bson.encode(document)
    except (OverflowError, BSONError):
        # An integer beyond 64 bits, or a key with a NUL. The text form meets any other cause again.
        return None


def _depth(value: object) -> int:
    inner: Iterable[object] = ()
    if isinstance(value, dict):
        inner = cast("dict[str, object]", value).values()
    elif isinstance(value, list):
        inner = cast("list[object]", value)
    return 1 + max(map(_depth, inner), default=0)

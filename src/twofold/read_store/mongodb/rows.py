"""In charge of one read model's rows as documents: the way into them and out of them.

_id     the key
_r, _p  the row's version: repair number and position
row     the row's JSON as a document, for whoever asks MongoDB itself; or, where no document can hold it exactly,
json    its JSON text
c       the column values of declared fields, by which rows are found and ordered
_d      in the place of row and c: when the row was deleted. The document stays for a week, so that no older
        version comes to life behind it
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import bson
import msgspec
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from twofold.errors import InvalidMessage, Unavailable, WiringError
from twofold.read_store.columns import ColumnValue, columns_of
from twofold.read_store.corruption import DECODE_ERRORS, corrupt_row, type_changed
from twofold.read_store.mongodb.names import column_name, id_of, rows_of
from twofold.read_store.port import ReadModel, VersionedRow

Document = dict[str, Any]

LARGEST = 16 * 2**20 - 2**14
"""Bytes a document may have: a statement that writes it has 16 MB, in which it says something about it, too."""

_DEEPEST = 100

_encode = msgspec.json.Encoder().encode
# The driver gives integers of 64 bits in a type of its own.
_encode_found = msgspec.json.Encoder(enc_hook=int).encode
_plain = msgspec.json.Decoder().decode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Rows:
    """One read model as MongoDB keeps it. WiringError where it has no name, columns or JSON that could be kept."""

    def __init__(self, model: ReadModel) -> None:
        self.model = model
        self.id = id_of(model.name, model.generation)
        self.collection = rows_of(self.id)
        self.columns = columns_of(model)
        self.column_names = {field: column_name(field, column.kind) for field, column in self.columns.items()}
        self._decode = _decoder(model)
        self._getters = [(self.column_names[f], each.get, each.plain, each.value) for f, each in self.columns.items()]
        try:
            model.name.encode()
        except UnicodeEncodeError as error:
            raise WiringError(f"A read model cannot be called {model.name!r}: {error}.") from error

    def documents(self, rows: Mapping[str, VersionedRow], now: int) -> list[RawBSONDocument]:
        """Rows as documents, in order. InvalidMessage, naming key and field, for the first that cannot be stored."""
        gone = moment(now)
        made: list[RawBSONDocument] = []
        for key, kept in rows.items():
            try:
                if kept.row is None:
                    stored = bson.encode({"_id": key, "_r": kept.repair, "_p": kept.position, "_d": gone})
                else:
                    stored = self._document(key, kept)
            except InvalidMessage as error:
                raise InvalidMessage(f"Row '{key}' of '{self.model.name}': {error}", field=error.field) from error
            except (TypeError, ValueError, OverflowError, BSONError) as error:
                raise InvalidMessage(f"Row {key!r} of '{self.model.name}' cannot be stored: {error}.") from error
            if len(stored) > LARGEST:
                raise InvalidMessage(
                    f"Row '{key}' of '{self.model.name}' takes {len(stored):,} bytes, MongoDB {LARGEST:,} at most."
                )
            made.append(RawBSONDocument(stored))
        return made

    def values(self, row: Any) -> dict[str, ColumnValue]:
        """The column values of a row, by column name. InvalidMessage where a field has none."""
        return {name: value(get(row)) for name, get, _, value in self._getters}

    def kept(self, document: Mapping[str, Any]) -> VersionedRow:
        """The row with its version. Unavailable, naming the cure, where the row type has changed since."""
        return VersionedRow(self.row(document), int(document["_p"]), int(document["_r"]))

    def row(self, document: Mapping[str, Any]) -> Any | None:
        """The row alone; None for one that was deleted."""
        try:
            text = json_of(document)
            return None if text is None else self._decode(text)
        except DECODE_ERRORS as error:
            raise corrupt_row(self.model, error) from error

    def check(self, document: Mapping[str, Any]) -> None:
        """WiringError, naming the cure, where the row type has changed since this row was stored.

        One that is damaged is for an audit to find: it must not keep the app from starting.
        """
        try:
            self.row(document)
        except Unavailable as error:
            if isinstance(error.__cause__, Exception) and type_changed(error.__cause__):
                raise WiringError(str(error)) from error

    def _document(self, key: str, kept: VersionedRow) -> bytes:
        text = _encode(kept.row)
        made = {"_id": key, "_r": kept.repair, "_p": kept.position, "row": _plain(text), "c": self._quick(kept.row)}
        stored = _exactly(text, made)
        if stored is None:
            del made["row"]
            stored = bson.encode({**made, "c": self.values(kept.row), "json": text.decode()})
        return stored

    def _quick(self, row: Any) -> dict[str, ColumnValue]:
        """Like `values`, but for the size of integers, which goes unnoticed."""
        found: dict[str, ColumnValue] = {}
        for name, get, plain, value in self._getters:
            own = get(row)
            # A bool is an int to us, but not to MongoDB.
            found[name] = own if plain and type(own) in (str, int) else value(own)
        return found


def json_of(document: Mapping[str, Any]) -> bytes | str | None:
    """The JSON of a stored row; None for one that was deleted."""
    if "row" in document:
        return _encode_found(document["row"])
    text: str | None = document.get("json")
    return text


def moment(microseconds: int) -> datetime:
    """Microseconds since 1970 in UTC as a date of MongoDB."""
    return _EPOCH + timedelta(microseconds=microseconds)


def _exactly(text: bytes, made: Document) -> bytes | None:
    """A row's document; None where no document gives back what the row's JSON says."""
    # By this key the driver knows references, which it gives back as such. (As a value it does no harm.)
    if b'"$ref"' in text:
        return None
    if text.count(b"{") + text.count(b"[") >= _DEEPEST and _depth(made["row"]) >= _DEEPEST:
        return None
    try:
        return bson.encode(made)
    except (OverflowError, BSONError):
        # An integer beyond 64 bits, a key with a NUL. Whatever else it is, the text form meets it again.
        return None


def _depth(value: object) -> int:
    inner: Iterable[object] = ()
    if isinstance(value, dict):
        inner = cast("dict[str, object]", value).values()
    elif isinstance(value, list):
        inner = cast("list[object]", value)
    return 1 + max(map(_depth, inner), default=0)


def _decoder(model: ReadModel) -> Callable[[bytes | str], Any]:
    try:
        return msgspec.json.Decoder(model.row).decode
    except TypeError as error:
        raise WiringError(f"Rows of '{model.name}' cannot be stored as JSON: {model.row.__name__}: {error}.") from error

"""Stored rows that may be corrupt: read with an error, or for audits and repairs with a description instead of one.

What a column must hold is derived from the row itself: by its type where the model is known, else by its JSON and the
kinds of the columns, as far as that goes (not for a field that has another name in JSON, or is left out).
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar, cast
from uuid import UUID

import msgspec

from twofold.codec.misfit_sentences import misfit_sentence
from twofold.errors import InvalidMessage, WiringError
from twofold.read_store.columns import Column, ColumnValue, columns_of
from twofold.read_store.port import CorruptRow, RawRow, ReadModel

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST = 60
_TYPES: Mapping[str, Any] = {"moment": datetime, "day": date, "uuid": UUID, "decimal": Decimal}
_MISFIT = (msgspec.MsgspecError, InvalidMessage, ValueError, TypeError, ArithmeticError, RecursionError)

NO_JSON = "The row is not JSON."


class DecodedRow(NamedTuple):
    """A stored row: plain JSON data, the values that its declared fields may have in columns, and what is wrong."""

    row: Any | None
    values: Mapping[str, Sequence[ColumnValue]]
    corruption: str = ""


DECODE_ERRORS = (msgspec.DecodeError, TypeError, ValueError, OverflowError)
"""What decoding a row raises, whatever is stored instead of one."""


class RawRowReader:
    """Reads stored rows of one read model and never raises. `kinds` are, by field, the possible kinds of its column."""

    def __init__(self, kinds: Mapping[str, Sequence[str]], model: ReadModel | None = None) -> None:
        self._kinds = kinds
        self._type = model.row if model else None
        self._columns = columns_of(model) if model else {}
        self._decode: Decode | None = None
        # A row type that JSON cannot be compared with: only the store in memory takes it.
        with contextlib.suppress(TypeError):
            self._decode = _json_decoder(model) if model else None

    def read(self, text: object) -> DecodedRow:
        """A row of its JSON text."""
        try:
            row = msgspec.json.decode(cast("str | bytes", text))
        except _MISFIT:
            return DecodedRow(None, {}, NO_JSON)
        if row is None:
            return DecodedRow(None, {}, "The row is null.")
        if self._decode is None or self._type is None:
            return DecodedRow(row, _by_kind(row, self._kinds))
        try:
            typed = self._decode(cast("str | bytes", text))
        except _MISFIT as error:
            return DecodedRow(row, {}, f"The row does not fit {self._type.__name__}: {_reason(error)}.")
        try:
            values = {field: [column.of(typed)] for field, column in self._columns.items() if field in self._kinds}
            return DecodedRow(row, values)
        except InvalidMessage as error:
            return DecodedRow(row, {}, str(error))


def raw_row(row: DecodedRow, position: object, repair: object, columns: Mapping[str, object]) -> RawRow:
    """A row compared with its version and its columns, which are given by field."""
    corruption = [row.corruption] if row.corruption else []
    if not (isinstance(position, int) and isinstance(repair, int)):
        corruption.append(f"Its version is {_literal(repair)}, {_literal(position)}.")
    corruption += [
        f"The column {field} holds {_literal(columns[field])}, the row says {_literal(values[0])}."
        for field, values in row.values.items()
        if field in columns and columns[field] not in values
    ]
    return RawRow(row.row, _whole(position), _whole(repair), " ".join(corruption))


Decode = Callable[[str | bytes], Any]


def row_decoder(model: ReadModel) -> Decode:
    """Reads stored rows of a model from their JSON. It raises CorruptRow, with the fix, for what is not such a row.

    WiringError, right here, where rows of this type cannot be read from JSON at all.
    """
    try:
        decode = _json_decoder(model)
    except TypeError as error:
        raise WiringError(f"Rows of '{model.name}' cannot be stored as JSON: {model.row.__name__}: {error}.") from error

    def decode_row(stored: str | bytes) -> Any:
        try:
            return decode(stored)
        except DECODE_ERRORS as error:
            raise corrupt_row(model, error) from error

    return decode_row


def _json_decoder(model: ReadModel) -> Decode:
    return msgspec.json.Decoder(model.row).decode


def decode_at_start(decode: Callable[[T], Any], stored: T) -> Any | None:
    """A stored row, as `row_decoder` reads it. WiringError, with the fix, where the row type has changed since.

    None where this row alone is corrupt, which an audit finds: it must not keep the app from starting.
    """
    try:
        return decode(stored)
    except CorruptRow as error:
        if error.changed:
            raise WiringError(str(error)) from error
        log.warning("%s", error)
        return None


def corrupt_row(model: ReadModel, error: Exception) -> CorruptRow:
    """What to raise where a stored row cannot be read, for this reason."""
    # JSON that does not fit the row type is rarely an accident: the type has changed since.
    if isinstance(error, msgspec.ValidationError):
        message = (
            f"Stored rows of '{model.name}' no longer fit {model.row.__name__}: {_reason(error)}. The row type has "
            f"changed: raise `version` of the projection '{model.name}', so that its read model is rebuilt."
        )
        return CorruptRow(message, changed=True)
    message = f"A stored row of '{model.name}' is corrupt: {error}. Run `twofold audit --repair` to find and repair it."
    return CorruptRow(message, changed=False)


def _reason(error: Exception) -> str:
    return misfit_sentence(error).about("the row") if isinstance(error, msgspec.ValidationError) else str(error)


def _by_kind(row: Any, kinds: Mapping[str, Sequence[str]]) -> dict[str, list[ColumnValue]]:
    if not isinstance(row, dict):
        return {}
    plain = cast("dict[str, Any]", row)
    values_by_field = {
        field: [value for kind in field_kinds for value in _column_values(kind, plain[field])]
        for field, field_kinds in kinds.items()
        if field in plain
    }
    return {field: values for field, values in values_by_field.items() if values}


def _column_values(kind: str, value: Any) -> list[ColumnValue]:
    """The column value of a JSON value in a column of a kind; none where it has none."""
    try:
        typed: Any = value if value is None or kind not in _TYPES else msgspec.convert(value, _TYPES[kind])
        found = Column("", kind, plain=False, get=lambda row: row).value(typed)
    except _MISFIT:
        return []
    # In a column of floats a whole number is stored as the nearest float.
    return [found, float(found)] if isinstance(found, int) and float(found) != found else [found]


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int) else 0


def _literal(value: object) -> str:
    if value is None or value is msgspec.UNSET:
        return "nothing" if value is None else "no value at all"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"

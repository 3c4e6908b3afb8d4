"""In charge of telling what has become of stored rows: for audits and repairs, which must see what else cannot be read.

Nothing here fails at what it is shown. What a column has to hold is told by the row itself: by its type where the model
is known, else by its JSON and the kinds of the columns, as far as that says it (not where a field has another name
there, or is left out).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple, cast
from uuid import UUID

import msgspec

from twofold.errors import InvalidMessage
from twofold.read_store.columns import Column, ColumnValue, columns_of
from twofold.read_store.port import CorruptRow, RawRow, ReadModel

_MOST = 60
_TYPES: Mapping[str, Any] = {"moment": datetime, "day": date, "uuid": UUID, "decimal": Decimal}
_MISFIT = (msgspec.MsgspecError, InvalidMessage, ValueError, TypeError, ArithmeticError, RecursionError)

NO_JSON = "The row is no JSON."


class DecodedRow(NamedTuple):
    """A stored row as it was read: plain JSON data, what its declared fields may hold, and what is wrong with it."""

    row: Any | None
    values: Mapping[str, Sequence[ColumnValue]]
    corruption: str = ""


DECODE_ERRORS = (msgspec.DecodeError, TypeError, ValueError, OverflowError)
"""What decoding raises, whatever was found in the place of a row."""


class RawRowReader:
    """Reads the stored rows of one read model. `kinds` are, by field, those that a column may be of."""

    def __init__(self, kinds: Mapping[str, Sequence[str]], model: ReadModel | None = None) -> None:
        self._kinds = kinds
        self._type = model.row if model else None
        self._columns = columns_of(model) if model else {}
        self._decode = None if model is None else _decoder(model)

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
            return DecodedRow(row, {}, f"The row does not fit {self._type.__name__}: {error}.")
        try:
            return DecodedRow(row, _by_type(typed, self._columns, self._kinds))
        except InvalidMessage as error:
            return DecodedRow(row, {}, str(error))


def raw_row(read: DecodedRow, position: object, repair: object, found: Mapping[str, object]) -> RawRow:
    """A row that was read, held against its version and its columns, which are given by field."""
    corruption = [read.corruption] if read.corruption else []
    if not (isinstance(position, int) and isinstance(repair, int)):
        corruption.append(f"Its version is {_shown(repair)}, {_shown(position)}.")
    corruption += column_mismatches(read, found)
    return RawRow(read.row, _whole(position), _whole(repair), " ".join(corruption))


def column_mismatches(read: DecodedRow, found: Mapping[str, object]) -> Iterable[str]:
    """A sentence for each column that holds what the row does not say."""
    for field, values in read.values.items():
        if field in found and found[field] not in values:
            yield f"The column {field} holds {_shown(found[field])}, the row says {_shown(values[0])}."


def _decoder(model: ReadModel) -> Callable[[str | bytes], Any] | None:
    try:
        return msgspec.json.Decoder(model.row).decode
    except TypeError:
        # No JSON can be held against such a type, which only the store in memory takes.
        return None


def corrupt_row(model: ReadModel, error: Exception) -> CorruptRow:
    """What to raise where a stored row cannot be read, for this reason."""
    return CorruptRow(unreadable(model, error), changed=type_changed(error))


def unreadable(model: ReadModel, error: Exception) -> str:
    """What to tell whoever needs a stored row that cannot be read, for this reason."""
    if type_changed(error):
        return (
            f"Stored rows of '{model.name}' no longer fit {model.row.__name__}: {error}. The row type has changed: "
            f"raise `version` of the projection '{model.name}', so that its read model is built anew."
        )
    return (
        f"A stored row of '{model.name}' is damaged: {error}. `twofold audit` finds it, and mends it with `--repair`."
    )


def type_changed(error: Exception) -> bool:
    """Whether it is JSON that could not be read as a row: no accident, as a rule, but another row type."""
    return isinstance(error, msgspec.ValidationError)


def _by_type(row: Any, columns: Mapping[str, Column], kinds: Mapping[str, object]) -> dict[str, list[ColumnValue]]:
    return {field: [column.value(column.get(row))] for field, column in columns.items() if field in kinds}


def _by_kind(row: Any, kinds: Mapping[str, Sequence[str]]) -> dict[str, list[ColumnValue]]:
    if not isinstance(row, dict):
        return {}
    plain = cast("dict[str, Any]", row)
    found = {
        field: [value for kind in each for value in _column_values(kind, plain[field])]
        for field, each in kinds.items()
        if field in plain
    }
    return {field: values for field, values in found.items() if values}


def _column_values(kind: str, value: Any) -> list[ColumnValue]:
    """The column value of a JSON value in a column of a kind; none where it has none."""
    try:
        typed: Any = value if value is None or kind not in _TYPES else msgspec.convert(value, _TYPES[kind])
        found = Column("", kind, plain=False, get=_itself).value(typed)
    except _MISFIT:
        return []
    # Where only floats may be, whole numbers are kept as the nearest one.
    return [found, float(found)] if isinstance(found, int) and float(found) != found else [found]


def _itself(value: Any) -> Any:
    return value


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int) else 0


def _shown(value: object) -> str:
    if value is None or value is msgspec.UNSET:
        return "nothing" if value is None else "no value at all"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"

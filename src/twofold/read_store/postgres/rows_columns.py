"""Declared fields as columns of a table: their types, and values on their way into them, row by row or as arrays.

    column values (see `columns`)               column
    whole numbers, moments                      bigint
    numbers with a fraction                     double precision
    both, by the field's hint                   numeric, so that 2**53 + 1 is not 2**53
    all that is stored as text                  text, compared by code points

Text of any length and decimals of any precision have a second column, which is null unless the first one was cut.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from twofold.errors import InvalidMessage
from twofold.read_store.columns import Column, ColumnValue
from twofold.read_store.postgres.schema_names import (
    all_fit,
    all_short,
    cut,
    escaped,
    fitting,
    quoted,
    short_key,
    whole_key,
)

Statement = tuple[str, list[Any]]
"""SQL and its arguments."""

Array = tuple[Any, str]
"""A column of many rows as one argument, and how it is written in SQL, with `$` where its number belongs."""

_WHOLE = frozenset({int, bool})
_REAL = frozenset({float})
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_ROOM = 1_400
"""Bytes of an entry of an index for all columns but the key."""
_LARGEST_SHARE = 500
_COLLATED = 'text collate "C"'


class StoredValue(NamedTuple):
    """A column value as the server stores it. `whole` is None unless it was cut."""

    value: Any
    whole: str | None = None


class PostgresColumn:
    """One declared field: its column, and perhaps a second one for what does not fit into an index."""

    def __init__(self, column: Column, share: int) -> None:
        self.column = column
        self.type = _type_of(column)
        self._most = share
        # The share is part of the name: if it changes, the values are written again.
        label = "text" if share == _LARGEST_SHARE or self.type != "text" else f"text{share}"
        self.name = quoted(fitting(f"{column.field}:{label if self.type == 'text' else self.type}"))
        long = column.kind in ("text", "decimal")
        self.whole = quoted(fitting(f"{column.field}:whole{label.removeprefix('text')}")) if long else None

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Names and types of its columns, for `create table`."""
        type_ = _COLLATED if self.type == "text" else self.type
        return [(self.name, type_), *([(self.whole, _COLLATED)] if self.whole else [])]

    def stored(self, value: ColumnValue) -> StoredValue:
        """A column value as this column stores it. InvalidMessage where it cannot."""
        if value is None:
            return StoredValue(None)
        if self.type == "text":
            text = escaped(str(value))
            head = cut(text, self._most) if self.whole else None
            return StoredValue(text) if head is None else StoredValue(head, text)
        if isinstance(value, str):
            raise TypeError(f"{value!r} is not a number")
        try:
            return StoredValue(_NUMBERS[self.type](value))
        except (ValueError, ArithmeticError) as error:
            field = self.column.field
            raise InvalidMessage(f"'{field}' cannot be filtered or sorted by: {error}.", field=field) from error

    def arrays(self, rows: Sequence[Any]) -> list[Array]:
        """For each column the values of these rows as an argument, and how it is written in SQL with `$` as number.

        TypeError, ValueError or InvalidMessage where a row has a value that cannot be stored.
        """
        get, column_value = self.column.get, self.column.value
        values: list[Any] = [get(row) for row in rows]
        if not self.column.plain or not set(map(type, values)) <= {int, str, type(None)}:
            values = [column_value(value) for value in values]
        if self.type == "bigint":
            return [whole_numbers(values)] if all(map(_is_whole, values)) else self._stored_arrays(values)
        if self.type != "text" or not all_fit([value for value in values if value is not None], self._most):
            return self._stored_arrays(values)
        # In `unnest` a missing array counts as one of nulls.
        return [(values, "$::text[]"), *([(None, "$::text[]")] if self.whole else [])]

    def _stored_arrays(self, values: Iterable[ColumnValue]) -> list[Array]:
        stored = [self.stored(value) for value in values]
        if self.type != "text":
            # As text: the driver would first have to ask the server for the type of the array.
            numbers = [None if value is None else str(value) for value, _ in stored]
            return [(numbers, f"$::text[]::{self.type}[]")]
        texts = [value for value, _ in stored]
        return [(texts, "$::text[]"), *([([whole for _, whole in stored], "$::text[]")] if self.whole else [])]


def postgres_columns(columns: Mapping[str, Column], groups: Iterable[Sequence[str]]) -> dict[str, PostgresColumn]:
    """The columns of a model, by field. `groups` are the fields that share an index."""
    weights = {name: _weight(column) for name, column in columns.items()}
    heaviest = max((sum(weights[name] for name in group) for group in groups), default=1)
    share = min(_LARGEST_SHARE, _ROOM // max(1, heaviest))
    return {name: PostgresColumn(column, share) for name, column in columns.items()}


class Arguments:
    """Arguments of one statement."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def one(self, value: Any, type: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{type}"

    def unnested(self, arrays: Sequence[Array]) -> str:
        """Several arrays side by side, as one source of rows."""
        written: list[str] = []
        for value, sql in arrays:
            self.values.append(value)
            written.append(sql.replace("$", f"${len(self.values)}", 1))
        return f"unnest({', '.join(written)})"


def whole_numbers(values: Sequence[Any]) -> Array:
    """Whole numbers as an argument, and how it is written: as text, which the driver encodes four times as fast."""
    return f"{{{str(values)[1:-1].replace('None', 'null')}}}", "$::text::bigint[]"


def key_arrays(keys: Sequence[str]) -> list[Array]:
    """Keys as two arguments: their short keys, and the whole of those that are too long."""
    short = keys if all_short(keys) else [short_key(key) for key in keys]
    whole = None if short is keys else [whole_key(key) for key in keys]
    return [(short, "$::text[]"), (whole, "$::text[]")]


def _is_whole(value: object) -> bool:
    return value is None or (type(value) is int and _SMALLEST <= value <= _LARGEST)


def _weight(column: Column) -> int:
    """How many shares of an entry its values may need: a float has up to 767 digits, two to a byte."""
    kind = _type_of(column)
    return 1 if kind == "text" else 2 if kind == "numeric" else 0


def _type_of(column: Column) -> str:
    if column.kind == "moment":
        return "bigint"
    if column.kind != "number":
        return "text"
    if column.types <= _WHOLE:
        return "bigint"
    return "double precision" if column.types <= _REAL else "numeric"


def _bigint(value: float) -> int:
    if value != int(value) or not _SMALLEST <= value <= _LARGEST:
        raise ValueError(f"{value} is not a whole number within 64 bits")
    return int(value)


_NUMBERS: dict[str, Callable[[Any], Any]] = {"bigint": _bigint, "double precision": float, "numeric": Decimal}

"""In charge of declared fields as columns of a table: their types, and values on their way into them.

    column values (see `columns`)               column
    whole numbers, moments                      bigint
    numbers with a fraction                     double precision
    both, by the field's hint                   numeric, so that 2**53 + 1 is not 2**53
    text and all that is kept as text           text, compared by code points

Text of any length and decimals of any precision have a second column, which is null unless the first one was cut.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from twofold.errors import InvalidMessage
from twofold.read_store.columns import Column, ColumnValue
from twofold.read_store.postgres.arguments import Array, whole_numbers
from twofold.read_store.postgres.names import fitting, quoted
from twofold.read_store.postgres.text import all_fit, cut, escaped

_WHOLE = frozenset({int, bool})
_REAL = frozenset({float})
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_ROOM = 1_400
"""Bytes of an entry of an index for all columns but the key."""
_LARGEST_SHARE = 500
_COLLATED = 'text collate "C"'


class Place(NamedTuple):
    """A column value as the server keeps it. `whole` is None unless it was cut."""

    value: Any
    whole: str | None = None


class Field:
    """One declared field: its column, and perhaps a second one for what does not fit into an index."""

    def __init__(self, column: Column, share: int) -> None:
        self.column = column
        self.type = _type_of(column)
        self._most = share
        # The share is part of the name: where it changes, the values are written anew.
        label = "text" if share == _LARGEST_SHARE or self.type != "text" else f"text{share}"
        self.name = quoted(fitting(f"{column.field}:{label if self.type == 'text' else self.type}"))
        long = column.kind in ("text", "decimal")
        self.whole = quoted(fitting(f"{column.field}:whole{label.removeprefix('text')}")) if long else None

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Names and types of its columns, for `create table`."""
        kept = _COLLATED if self.type == "text" else self.type
        return [(self.name, kept), *([(self.whole, _COLLATED)] if self.whole else [])]

    def place(self, value: ColumnValue) -> Place:
        """Where a column value is in this column. InvalidMessage where it can be in none."""
        if value is None:
            return Place(None)
        if self.type == "text":
            kept = escaped(str(value))
            head = cut(kept, self._most) if self.whole else None
            return Place(kept) if head is None else Place(head, kept)
        if isinstance(value, str):
            raise TypeError(f"{value!r} is not a number")
        try:
            return Place(_NUMBERS[self.type](value))
        except (ValueError, ArithmeticError) as error:
            field = self.column.field
            raise InvalidMessage(f"'{field}' cannot be filtered or sorted by: {error}.", field=field) from error

    def arrays(self, rows: Sequence[Any]) -> list[Array]:
        """For each column the values of these rows as an argument, and how it is written in SQL with `$` as number.

        TypeError, ValueError or InvalidMessage where a row has a value that has no place.
        """
        get, value = self.column.get, self.column.value
        found: list[Any] = [get(row) for row in rows]
        if not self.column.plain or not set(map(type, found)) <= {int, str, type(None)}:
            found = [value(each) for each in found]
        if self.type == "bigint":
            return [whole_numbers(found)] if all(_is_whole(each) for each in found) else self._placed(found)
        if self.type != "text" or not all_fit([each for each in found if each is not None], self._most):
            return self._placed(found)
        # An array that is missing is taken for one of nulls.
        return [(found, "$::text[]"), *([(None, "$::text[]")] if self.whole else [])]

    def _placed(self, found: Iterable[ColumnValue]) -> list[Array]:
        places = [self.place(each) for each in found]
        if self.type != "text":
            # As text, since the driver would first have to ask what kind of array that is.
            return [([_written(each.value) for each in places], f"$::text[]::{self.type}[]")]
        values = [each.value for each in places]
        return [(values, "$::text[]"), *([([each.whole for each in places], "$::text[]")] if self.whole else [])]


def fields_of(columns: Mapping[str, Column], groups: Iterable[Sequence[str]]) -> dict[str, Field]:
    """The fields of a model, by name. `groups` are those that are together in an index."""
    weights = {name: _weight(column) for name, column in columns.items()}
    heaviest = max((sum(weights[name] for name in group) for group in groups), default=1)
    share = min(_LARGEST_SHARE, _ROOM // max(1, heaviest))
    return {name: Field(column, share) for name, column in columns.items()}


def _is_whole(value: object) -> bool:
    return value is None or (type(value) is int and _SMALLEST <= value <= _LARGEST)


def _written(value: object) -> str | None:
    return None if value is None else str(value)


def _weight(column: Column) -> int:
    """How many shares of an entry its values may need: a float in full has up to 767 digits, two to a byte."""
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

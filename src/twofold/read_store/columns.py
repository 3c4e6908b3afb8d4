"""Column values: what a field of a row is filtered and sorted by, the same in every read store.

    field type                  column value, and so the order            kind
    bool, int, float            the number (int within 64 bits); where    number
                                only floats may be, as a float
    str, Literal["…"]           the text, by code points                  text
    datetime                    the moment, in microseconds; without a    moment
                                time zone it is read as UTC
    date                        the calendar                              day
    UUID                        its digits                                uuid
    Decimal                     the number, of any size and precision     decimal
    Enum of one of these        its value                                 that of its values

`X | None` is `X`, with None before every value. Other types cannot be filtered or sorted by.
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, EnumType
from operator import attrgetter
from typing import Any, Literal, get_args, get_origin
from uuid import UUID

import msgspec

from twofold.domain.type_hints import bare_types, hints_of
from twofold.errors import InvalidMessage, WiringError
from twofold.read_store.port import ReadModel
from twofold.world import microseconds

ColumnValue = str | int | float | None

_LARGEST = 2**63 - 1
_SMALLEST = -(2**63)
_EXPONENT_SHIFT = 10**18
_WHOLE = frozenset({int, bool})
_REAL = frozenset({float})


class Column(msgspec.Struct, frozen=True):
    """One declared field of a read model. `plain` says that its values, if in range, are column values already.

    `types` are the types in its hint without None; for an Enum, those of its values.
    """

    field: str
    kind: str
    plain: bool
    get: Callable[[Any], Any]
    types: frozenset[object] = frozenset()

    @property
    def stored_as(self) -> tuple[type, ...]:
        """The types of its column values, without None."""
        return (int, float) if self.kind in ("number", "moment") else (str,)

    def value(self, value: object) -> ColumnValue:
        """The column value of a field's value. InvalidMessage, naming the field, where it has none."""
        if isinstance(value, Enum):
            value = value.value
        if value is None:
            return None
        try:
            converted = _CONVERTERS[self.kind](value)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise InvalidMessage(
                f"'{self.field}' cannot be filtered or sorted by: {error}.", field=self.field
            ) from error
        return float(converted) if isinstance(converted, int) and self.types == _REAL else converted

    def of(self, row: Any) -> ColumnValue:
        """The column value of a row. InvalidMessage, naming the field, where it has none."""
        return self.value(self.get(row))

    def may_hold(self, value: object) -> bool:
        """Whether a row may have this value, which has a column value: no whole number is 1.5, no float 2**53 + 1."""
        number = value.value if isinstance(value, Enum) else value
        if self.kind != "number" or not isinstance(number, int | float):
            return True
        if self.types <= _WHOLE:
            return _SMALLEST <= number <= _LARGEST and number == int(number)
        return self.types != _REAL or float(number) == number


def columns_of(model: ReadModel) -> dict[str, Column]:
    """The columns of all fields a model declares, by field. WiringError names a field whose type has none."""
    hints = hints_of(model.row, model.row.__name__)
    declared = dict.fromkeys([*(field for group in model.find_by for field in group), *model.order_by])
    return {field: _column(model, field, hints) for field in declared}


def _column(model: ReadModel, field: str, hints: Mapping[str, object]) -> Column:
    if field not in hints:
        known = ", ".join(hints)
        raise WiringError(f"Projection '{model.name}': {model.row.__name__} has no field '{field}'. It has: {known}.")
    types = _types(hints[field])
    plain_types = frozenset(plain for type_ in types for plain in _without_enums(type_))
    kinds = {_KINDS.get(type_, f"unknown {type_}") for type_ in plain_types}
    if len(kinds) != 1 or not kinds <= _CONVERTERS.keys():
        raise WiringError(
            f"Projection '{model.name}': rows cannot be found or ordered by '{field}', whose type is {hints[field]}. "
            "Use str, int, float, bool, date, datetime, UUID, Decimal or an Enum of one of them, each perhaps | None."
        )
    return Column(field, kinds.pop(), types <= {str, int, bool}, attrgetter(field), plain_types)


def _types(hint: object) -> set[object]:
    """The types of a field's values, without None; those of its values for a Literal."""
    types: set[object] = set()
    for bare in bare_types(hint):
        types |= {_type_of(value) for value in get_args(bare)} if get_origin(bare) is Literal else {bare}
    return types - {type(None)}


def _without_enums(type_: object) -> set[object]:
    if isinstance(type_, EnumType):
        return {plain for member in list[Any](type_) for plain in _without_enums(_type_of(member.value))}
    return {type_}


def _type_of(value: object) -> object:
    return type(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    value.encode()
    return value


def _number(value: object) -> int | float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} cannot be ordered; use None for “unknown”")
        return float(value)
    if not _SMALLEST <= value <= _LARGEST:
        raise ValueError(f"{value} is beyond 64 bits; use Decimal for such numbers")
    return int(value)


def _moment(value: object) -> int:
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is not a datetime")
    return microseconds(value if value.tzinfo else value.replace(tzinfo=UTC))


def _day(value: object) -> str:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise TypeError(f"{value!r} is not a date")
    return value.isoformat()


def _uuid(value: object) -> str:
    if not isinstance(value, UUID):
        raise TypeError(f"{value!r} is not a UUID")
    return str(value)


def _decimal(value: object) -> str:
    """Text that sorts as the number does: sign, exponent, digits; the last two inverted for negative numbers."""
    number = Decimal(value) if isinstance(value, int) else value
    if not isinstance(number, Decimal) or not number.is_finite():
        raise TypeError(f"{value!r} is not a finite Decimal")
    if not number:
        return "1"
    sign, digits, _ = number.as_tuple()
    exponent = number.adjusted() + _EXPONENT_SHIFT
    text = f"{exponent:020d}" + "".join(map(str, digits)).rstrip("0")
    return f"0{text.translate(_NINES)}~" if sign else f"2{text}"


_NINES = str.maketrans("0123456789", "9876543210")
_KINDS: Mapping[object, str] = {
    **dict.fromkeys((bool, int, float), "number"),
    **{str: "text", datetime: "moment", date: "day", UUID: "uuid", Decimal: "decimal"},
}
_CONVERTERS: Mapping[str, Callable[[object], ColumnValue]] = {
    "number": _number,
    "text": _text,
    "moment": _moment,
    "day": _day,
    "uuid": _uuid,
    "decimal": _decimal,
}

"""When two stored rows are equal: their JSON is the same, except where the type of the row gives order no meaning."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, cast

import msgspec
from msgspec import inspect

from twofold.codec.json_types import LISTS, ORDERED, PLACES, RECORDS, SETS, members, places

_WHOLE = (inspect.IntType, inspect.EnumType, inspect.LiteralType)


def rows_equal(one: Any, other: Any, row: type | None = None) -> bool:
    """Whether two rows are the same JSON. The order of fields does not matter; 1 differs from 1.0 and from true.

    If the type of the rows is known, the order of a set does not matter either (it differs between processes), nor
    does it matter how a whole number is written in a field of floats. The `==` of the type is not used.
    """
    if canonical(one) == canonical(other):
        return True
    return row is not None and canonical(normalised(one, row)) == canonical(normalised(other, row))


def canonical(value: Any) -> bytes:
    """JSON that is the same for equal values."""
    return msgspec.json.encode(value, order="deterministic")


def normalised(value: Any, row: type) -> Any:
    """The JSON of a row with sorted sets, and with floats as floats. A value that does not fit stays as it is."""
    return _normalised(value, _structure(row))


@lru_cache(maxsize=256)
def _structure(row: type) -> inspect.Type:
    return inspect.type_info(row)


def _normalised(value: Any, kind: inspect.Type) -> Any:
    member = _member(value, members(kind))
    if member is None:
        return value
    if isinstance(value, dict):
        return _normalised_object(cast("dict[str, Any]", value), member)
    if isinstance(value, list):
        return _normalised_list(cast("Sequence[Any]", value), member)
    if isinstance(member, inspect.FloatType) and type(value) is int:
        return _as_float(value)
    return value


def _normalised_object(value: Mapping[str, Any], kind: inspect.Type) -> Any:
    if isinstance(kind, inspect.DictType):
        return {name: _normalised(inner, kind.value_type) for name, inner in value.items()}
    if not isinstance(kind, RECORDS):
        return value
    kinds = {field.encode_name: field.type for field in kind.fields}
    return {name: _normalised(inner, kinds[name]) if name in kinds else inner for name, inner in value.items()}


def _normalised_list(value: Sequence[Any], kind: inspect.Type) -> Any:
    if isinstance(kind, SETS):
        return sorted((_normalised(item, kind.item_type) for item in value), key=canonical)
    if isinstance(kind, ORDERED):
        return [_normalised(item, kind.item_type) for item in value]
    kinds = places(kind)
    if kinds is None:
        return value
    tags = 0 if not isinstance(kind, inspect.StructType) or kind.tag_field is None else 1
    items = zip_longest(value[tags:], kinds[: len(value) - tags])
    return [*value[:tags], *(item if known is None else _normalised(item, known) for item, known in items)]


def _as_float(value: int) -> float | int:
    try:
        return float(value)
    except OverflowError:
        # The number is larger than every float: it does not fit.
        return value


def _member(value: Any, kinds: Sequence[inspect.Type]) -> inspect.Type | None:
    """The member of a union that a value belongs to. If several fit, the order of the value has a meaning in one."""
    if len(kinds) == 1:
        return kinds[0]
    if type(value) is int and any(isinstance(kind, _WHOLE) for kind in kinds):
        return None
    return next((kind for kind in kinds if _takes(kind, value)), None)


def _takes(kind: inspect.Type, value: Any) -> bool:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return isinstance(kind, (inspect.DictType, *RECORDS)) and _has_tag(kind, fields.get)
    if isinstance(value, list):
        items = cast("Sequence[Any]", value)
        is_array = isinstance(kind, (*LISTS, *PLACES, inspect.StructType))
        return is_array and _has_tag(kind, lambda _: items[0] if items else None)
    return isinstance(kind, inspect.FloatType)


def _has_tag(kind: inspect.Type, tag: Callable[[str], Any]) -> bool:
    if not isinstance(kind, inspect.StructType) or kind.tag_field is None:
        return True
    value = tag(kind.tag_field)
    return type(value) is type(kind.tag) and value == kind.tag

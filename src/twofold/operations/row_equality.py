"""In charge of when two stored rows are the same: their JSON is, but for what their type gives no meaning to."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import Any, cast

import msgspec
from msgspec import inspect

_SETS = (inspect.SetType, inspect.FrozenSetType)
_LISTS = (inspect.ListType, inspect.VarTupleType, inspect.CollectionType)
_RECORDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_WHOLE = (inspect.IntType, inspect.EnumType, inspect.LiteralType)


def rows_equal(one: Any, other: Any, row: type | None = None) -> bool:
    """Whether two rows are the same JSON: 1 is neither 1.0 nor true, the order of fields is nothing.

    Where the type of the rows is known, the order of a set is nothing, too (another process does not repeat it), and
    neither is it how a whole number is written in a field of floats. How instances of the type compare is no question.
    """
    if canonical(one) == canonical(other):
        return True
    return row is not None and canonical(normalised(one, row)) == canonical(normalised(other, row))


def canonical(value: Any) -> bytes:
    """JSON that is the same for values that are."""
    return msgspec.json.encode(value, order="deterministic")


def normalised(value: Any, row: type) -> Any:
    """The JSON of a row with its sets in one order, and its floats as floats. What does not fit is left as it is."""
    return _settled(value, _structure(row))


@lru_cache(maxsize=256)
def _structure(row: type) -> inspect.Type:
    return inspect.type_info(row)


def _settled(value: Any, kind: inspect.Type) -> Any:
    if isinstance(kind, inspect.Metadata):
        return _settled(value, kind.type)
    if isinstance(kind, inspect.UnionType):
        arm = _arm(value, kind.types)
        return value if arm is None else _settled(value, arm)
    if isinstance(value, dict):
        return _settled_object(cast("dict[str, Any]", value), kind)
    if isinstance(value, list):
        return _settled_list(cast("Sequence[Any]", value), kind)
    if isinstance(kind, inspect.FloatType) and type(value) is int:
        return _as_float(value)
    return value


def _settled_object(value: Mapping[str, Any], kind: inspect.Type) -> Any:
    if isinstance(kind, inspect.DictType):
        return {name: _settled(each, kind.value_type) for name, each in value.items()}
    if not isinstance(kind, _RECORDS):
        return value
    kinds = {field.encode_name: field.type for field in kind.fields}
    return {name: _settled(each, kinds[name]) if name in kinds else each for name, each in value.items()}


def _settled_list(value: Sequence[Any], kind: inspect.Type) -> Any:
    if isinstance(kind, _SETS):
        return sorted((_settled(each, kind.item_type) for each in value), key=canonical)
    if isinstance(kind, _LISTS):
        return [_settled(each, kind.item_type) for each in value]
    if isinstance(kind, inspect.TupleType):
        return _one_by_one(value, kind.item_types)
    if isinstance(kind, inspect.NamedTupleType):
        return _one_by_one(value, [field.type for field in kind.fields])
    if isinstance(kind, inspect.StructType) and kind.array_like:
        tags = 0 if kind.tag_field is None else 1
        return [*value[:tags], *_one_by_one(value[tags:], [field.type for field in kind.fields])]
    return value


def _one_by_one(value: Sequence[Any], kinds: Sequence[inspect.Type]) -> list[Any]:
    known = kinds[: len(value)]
    return [each if kind is None else _settled(each, kind) for each, kind in zip_longest(value, known)]


def _as_float(value: int) -> float | int:
    try:
        return float(value)
    except OverflowError:
        # No float is as large: it does not fit.
        return value


def _arm(value: Any, arms: Iterable[inspect.Type]) -> inspect.Type | None:
    """The arm of a union that a value is of. Where several could be, only one of them says anything of its order."""
    plain = [arm.type if isinstance(arm, inspect.Metadata) else arm for arm in arms]
    if type(value) is int and any(isinstance(arm, _WHOLE) for arm in plain):
        return None
    return next((arm for arm in plain if _takes(arm, value)), None)


def _takes(arm: inspect.Type, value: Any) -> bool:
    if isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        return isinstance(arm, (inspect.DictType, *_RECORDS)) and _has_tag(arm, found.get)
    if isinstance(value, list):
        items = cast("Sequence[Any]", value)
        kinds = (*_SETS, *_LISTS, inspect.TupleType, inspect.NamedTupleType, inspect.StructType)
        return isinstance(arm, kinds) and _has_tag(arm, lambda _: items[0] if items else None)
    return isinstance(arm, inspect.FloatType)


def _has_tag(arm: inspect.Type, tag: Callable[[str], Any]) -> bool:
    if not isinstance(arm, inspect.StructType) or arm.tag_field is None:
        return True
    found = tag(arm.tag_field)
    return type(found) is type(arm.tag) and found == arm.tag

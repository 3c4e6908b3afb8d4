"""In charge of fields a message does not have: a misspelt one must be refused, for else it would be lost in silence."""

from collections.abc import Callable
from typing import Any, cast

import msgspec
from msgspec import inspect

from twofold.errors import InvalidMessage

Check = Callable[[Any, str], None]

_RECORDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)
_LISTS = (inspect.ListType, inspect.SetType, inspect.FrozenSetType, inspect.VarTupleType, inspect.CollectionType)
_Record = inspect.StructType | inspect.DataclassType | inspect.TypedDictType


def strict_fields(kind: type) -> Callable[[bytes], None]:
    """A function that raises InvalidMessage, naming the field, for JSON that fits `kind` but has fields it has not."""
    check = _Compiler().check_of(inspect.type_info(kind))
    parse = msgspec.json.Decoder().decode

    def check_fields(body: bytes) -> None:
        if check is not None:
            check(parse(body), "")

    return check_fields


class _Compiler:
    """Makes one check for each type; None for those that hold no record anywhere."""

    def __init__(self) -> None:
        self._records: dict[Any, Check] = {}

    def check_of(self, kind: inspect.Type) -> Check | None:
        if isinstance(kind, inspect.Metadata):
            return self.check_of(kind.type)
        if isinstance(kind, _RECORDS):
            return self._record(kind)
        if isinstance(kind, _LISTS):
            return _each_item(self.check_of(kind.item_type))
        if isinstance(kind, inspect.TupleType):
            return _in_places([self.check_of(each) for each in kind.item_types])
        if isinstance(kind, inspect.NamedTupleType):
            return _in_places([self.check_of(field.type) for field in kind.fields])
        if isinstance(kind, inspect.DictType):
            return _each_value(self.check_of(kind.value_type))
        if isinstance(kind, inspect.UnionType):
            return _first_fitting([(_guard(each), self.check_of(each)) for each in kind.types])
        return None

    def _record(self, kind: _Record) -> Check:
        cls = kind.cls
        if cls in self._records:
            return self._records[cls]
        if isinstance(kind, inspect.StructType) and kind.array_like:
            tag: list[Check | None] = [] if kind.tag_field is None else [None]
            return _in_places(tag + [self.check_of(field.type) for field in kind.fields]) or _nothing
        # A record may contain itself, so its check must be known before those of its fields are made.
        self._records[cls] = lambda value, place: check(value, place)
        deeper = {field.encode_name: inner for field in kind.fields if (inner := self.check_of(field.type))}
        names = {field.encode_name for field in kind.fields}
        if isinstance(kind, inspect.StructType) and kind.tag_field is not None:
            names.add(kind.tag_field)
        check = self._records[cls] = _fields_of(frozenset(names), deeper, cls.__name__)
        return check


def _fields_of(names: frozenset[str], deeper: dict[str, Check], record: str) -> Check:
    def check(value: Any, place: str) -> None:
        if not value.keys() <= names:
            field = min(value.keys() - names)
            shown = place + "".join(c if c.isprintable() else "?" for c in field[:64])
            if not names:
                raise InvalidMessage(f"There is no field '{shown}'. Nothing is to be said here: send {{}}", field=shown)
            raise InvalidMessage(f"{record} has no field '{shown}'. It has: {', '.join(sorted(names))}.", field=shown)
        for name, inner in deeper.items():
            if name in value:
                inner(value[name], f"{place}{name}.")

    return check


def _each_item(inner: Check | None) -> Check | None:
    if inner is None:
        return None

    def check(value: Any, place: str) -> None:
        for index, item in enumerate(value):
            inner(item, f"{place[:-1]}[{index}].")

    return check


def _in_places(checks: list[Check | None]) -> Check | None:
    if not any(checks):
        return None

    def check(value: Any, place: str) -> None:
        for index, (inner, item) in enumerate(zip(checks, value, strict=False)):
            if inner is not None:
                inner(item, f"{place[:-1]}[{index}].")

    return check


def _each_value(inner: Check | None) -> Check | None:
    if inner is None:
        return None

    def check(value: Any, place: str) -> None:
        for key, item in value.items():
            inner(item, f"{place}{key[:64]}.")

    return check


def _first_fitting(arms: list[tuple[Callable[[Any], bool], Check | None]]) -> Check | None:
    if not any(inner for _, inner in arms):
        return None

    def check(value: Any, place: str) -> None:
        inner = next((inner for fits, inner in arms if fits(value)), None)
        if inner is not None:
            inner(value, place)

    return check


def _guard(kind: inspect.Type) -> Callable[[Any], bool]:
    """Tells which arm of a union a JSON value is: by its tag, else by being an object or an array."""
    if isinstance(kind, inspect.Metadata):
        return _guard(kind.type)
    if isinstance(kind, inspect.StructType) and kind.tag_field is not None:
        field, tag = kind.tag_field, kind.tag
        if kind.array_like:
            return lambda value: type(value) is list and value[:1] == [tag]
        return lambda value: isinstance(value, dict) and cast("dict[str, Any]", value).get(field) == tag
    if isinstance(kind, inspect.StructType) and kind.array_like:
        return lambda value: isinstance(value, list)
    if isinstance(kind, (*_RECORDS, inspect.DictType)):
        return lambda value: isinstance(value, dict)
    if isinstance(kind, (*_LISTS, inspect.TupleType, inspect.NamedTupleType)):
        return lambda value: isinstance(value, list)
    return lambda value: not isinstance(value, dict | list)


def _nothing(value: Any, place: str) -> None:
    """An array whose places hold no record."""

"""Checks that JSON has no fields that its type does not have: a misspelt field would be lost without a word.

One check is compiled for each type. It runs over JSON that is known to fit the type.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from msgspec import inspect

from twofold.codec.edge import Misfit, printable
from twofold.codec.json_types import LISTS, PLACES, RECORDS, SCALARS, Record, places, without_metadata

Check = Callable[[Any], None]

UNBOUNDED = 1_000_000
"""The depth of types that may hold anything, or that may hold themselves."""


class Shape(NamedTuple):
    """What is known of the JSON of a type: how many levels it has at most, and the check (None: no fields anywhere)."""

    depth: int
    check: Check | None


def shape_of(kind: type) -> Shape:
    """The shape of a type. Its check raises Misfit for JSON that has a field the type does not have."""
    return _Compiler().shape_of(inspect.type_info(kind))


class _Compiler:
    """Makes the shape of each type once, so that a type may hold itself."""

    def __init__(self) -> None:
        self._records: dict[int, Shape] = {}

    def shape_of(self, kind: inspect.Type) -> Shape:
        kind = without_metadata(kind)
        if isinstance(kind, SCALARS):
            return Shape(0, None)
        if isinstance(kind, RECORDS):
            return self._record(kind)
        if isinstance(kind, LISTS):
            item = self.shape_of(kind.item_type)
            return Shape(item.depth + 1, item.check and _items(item.check))
        if isinstance(kind, inspect.DictType):
            value = self.shape_of(kind.value_type)
            return Shape(value.depth + 1, value.check and _values(value.check))
        if (items := places(kind)) is not None:
            return self._array(items)
        if isinstance(kind, inspect.UnionType):
            members = [(_guard(member), self.shape_of(member)) for member in kind.types]
            checks = [(fits, member.check) for fits, member in members]
            deepest = max(member.depth for _, member in members)
            return Shape(deepest, _first_fitting(checks) if any(check for _, check in checks) else None)
        return Shape(UNBOUNDED, None)

    def _array(self, items: Sequence[inspect.Type | None]) -> Shape:
        checks = [None if item is None else self.shape_of(item).check for item in items]
        # JSON may have more items than the type, and msgspec looks into none of these.
        return Shape(UNBOUNDED, _places(checks) if any(checks) else None)

    def _record(self, kind: Record) -> Shape:
        # By identity: the same generic class may stand there with several types of fields.
        known = self._records.get(id(kind))
        if known is not None:
            return known

        def check_itself(value: Any) -> None:
            if made.check is not None:
                made.check(value)

        # A record may hold itself, so its check must be known before those of its fields are made.
        self._records[id(kind)] = Shape(UNBOUNDED, check_itself)
        tag = kind.tag_field if isinstance(kind, inspect.StructType) else None
        if isinstance(kind, inspect.StructType) and kind.array_like:
            made = self._array([*([None] if tag else []), *(field.type for field in kind.fields)])
        else:
            fields = {field.encode_name: self.shape_of(field.type) for field in kind.fields}
            deeper = [(name, field.check) for name, field in fields.items() if field.check is not None]
            names = [*fields, tag] if tag else list(fields)
            depth = 1 + max((field.depth for field in fields.values()), default=0)
            made = Shape(depth, _fields(frozenset(names), deeper, kind.cls.__name__))
        self._records[id(kind)] = made
        return made


def _fields(names: frozenset[str], deeper: list[tuple[str, Check]], record: str) -> Check:
    def check(value: Any) -> None:
        if not names.issuperset(value):
            raise Misfit(
                f"is not a field of {record}. Its fields are: {', '.join(sorted(names))}."
                if names
                else f"is not a field of {record}, which has none. Send {{}}.",
                f".{printable(min(value.keys() - names))}",
            )
        name = ""
        try:
            for name, inner in deeper:
                if name in value:
                    inner(value[name])
        except Misfit as misfit:
            misfit.path.append(f".{name}")
            raise

    return check


def _items(inner: Check) -> Check:
    def check(value: Any) -> None:
        index = 0
        try:
            for item in value:
                inner(item)
                index += 1
        except Misfit as misfit:
            misfit.path.append(f"[{index}]")
            raise

    return check


def _places(checks: list[Check | None]) -> Check:
    def check(value: Any) -> None:
        index = 0
        try:
            for inner, item in zip(checks, value, strict=False):
                if inner is not None:
                    inner(item)
                index += 1
        except Misfit as misfit:
            misfit.path.append(f"[{index}]")
            raise

    return check


def _values(inner: Check) -> Check:
    def check(value: Any) -> None:
        key = ""
        try:
            for key in value:
                inner(value[key])
        except Misfit as misfit:
            misfit.path.append(f".{printable(key)}")
            raise

    return check


def _first_fitting(members: list[tuple[Callable[[Any], bool], Check | None]]) -> Check:
    def check(value: Any) -> None:
        inner = next((inner for fits, inner in members if fits(value)), None)
        if inner is not None:
            inner(value)

    return check


def _guard(kind: inspect.Type) -> Callable[[Any], bool]:
    """Tells whether a JSON value is this member of a union: by its tag, else by being an object or an array."""
    kind = without_metadata(kind)
    if isinstance(kind, inspect.StructType) and kind.tag_field is not None:
        field, tag = kind.tag_field, kind.tag
        if kind.array_like:
            return lambda value: type(value) is list and value[:1] == [tag]
        return lambda value: isinstance(value, dict) and cast("dict[str, Any]", value).get(field) == tag
    if isinstance(kind, inspect.StructType) and kind.array_like:
        return lambda value: isinstance(value, list)
    if isinstance(kind, (*RECORDS, inspect.DictType)):
        return lambda value: isinstance(value, dict)
    if isinstance(kind, (*LISTS, *PLACES)):
        return lambda value: isinstance(value, list)
    return lambda value: not isinstance(value, dict | list)

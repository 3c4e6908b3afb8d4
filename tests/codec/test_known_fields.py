"""Fields that a type does not have are refused at every depth, and those that it has are not."""

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import msgspec
import pytest
from msgspec import Struct

from twofold.codec import RequestDecoder
from twofold.errors import InvalidMessage

T = TypeVar("T")


class Inner(Struct, frozen=True):
    a: int = 0


class Cat(Struct, frozen=True, tag="cat"):
    lives: int = 9


class Dog(Struct, frozen=True, tag="dog"):
    name: str = ""


class Place(Struct, frozen=True, array_like=True):
    x: Inner
    y: int = 0


class Tagged(Struct, frozen=True, array_like=True, tag="tagged"):
    x: Inner


class Renamed(Struct, frozen=True, rename="camel"):
    long_name: int = 0


@dataclass(frozen=True)
class Data:
    inner: Inner


class Typed(TypedDict, total=False):
    inner: Inner


class Pair(NamedTuple):
    left: Inner
    right: int


class Tree(Struct, frozen=True):
    children: "list[Tree]" = []
    parent: "Tree | None" = None


class All(Struct, frozen=True):
    inner: Inner | None = None
    many: list[Inner] = []
    fixed: tuple[int, Inner] | None = None
    named: dict[str, Inner] = {}
    pet: Cat | Dog | None = None
    place: Place | None = None
    tagged: Tagged | None = None
    renamed: Renamed | None = None
    data: Data | None = None
    typed: Typed | None = None
    pair: Pair | None = None
    tree: Tree | None = None
    free: dict[str, Any] = {}
    anything: Any = None
    either: int | str | list[Inner] = 0


GOOD: list[dict[str, Any]] = [
    {},
    {"inner": {"a": 1}, "many": [{"a": 1}, {}]},
    {"inner": None, "pet": {"type": "cat", "lives": 1}},
    {"pet": {"type": "dog", "name": "rex"}},
    {"place": [{"a": 1}, 2], "tagged": ["tagged", {"a": 1}]},
    {"renamed": {"longName": 1}, "data": {"inner": {}}, "typed": {"inner": {}}, "pair": [{}, 1]},
    {"tree": {"children": [{"children": []}], "parent": {}}},
    {"free": {"anything": {"at": "all"}}, "anything": {"x": [{"y": 1}]}, "either": [{"a": 1}]},
    {"named": {"x": {"a": 1}}, "fixed": [1, {"a": 2}]},
]

BAD: list[tuple[dict[str, Any], str]] = [
    ({"iner": {}}, "iner"),
    ({"inner": {"b": 1}}, "inner.b"),
    ({"many": [{}, {"b": 1}]}, "many[1].b"),
    ({"fixed": [1, {"b": 2}]}, "fixed[1].b"),
    ({"named": {"x": {"b": 1}}}, "named.x.b"),
    ({"pet": {"type": "cat", "name": "tom"}}, "pet.name"),
    ({"place": [{"b": 1}]}, "place[0].b"),
    ({"tagged": ["tagged", {"b": 1}]}, "tagged[1].b"),
    ({"renamed": {"long_name": 1}}, "renamed.long_name"),
    ({"data": {"inner": {"b": 1}}}, "data.inner.b"),
    ({"data": {"inner": {}, "outer": 1}}, "data.outer"),
    ({"typed": {"other": 1}}, "typed.other"),
    ({"pair": [{"b": 1}, 1]}, "pair[0].b"),
    ({"tree": {"children": [{"children": [{"child": 1}]}]}}, "tree.children[0].children[0].child"),
    ({"tree": {"parent": {"parents": 1}}}, "tree.parent.parents"),
    ({"either": [{"b": 1}]}, "either[0].b"),
]


class Wrapped(Struct, Generic[T], frozen=True):
    content: T


class Both(Struct, frozen=True):
    """One generic type with two types of content."""

    inner: Wrapped[Inner]
    renamed: Wrapped[Renamed]


@pytest.mark.parametrize("fields", GOOD)
def test_declared_fields_are_accepted(fields: dict[str, Any]) -> None:
    body = msgspec.json.encode(fields)
    assert RequestDecoder(All)(body) == msgspec.json.decode(body, type=All)


@pytest.mark.parametrize(("fields", "place"), BAD)
def test_a_field_that_is_not_declared_is_named_with_its_place(fields: dict[str, Any], place: str) -> None:
    body = msgspec.json.encode(fields)
    msgspec.json.decode(body, type=All)
    with pytest.raises(InvalidMessage, match="is not a field of") as caught:
        RequestDecoder(All)(body)
    assert caught.value.field == place
    assert str(caught.value).startswith(f"{place} is not a field of")


def test_a_generic_type_is_checked_with_the_content_of_each_use() -> None:
    decode = RequestDecoder(Both)
    decode(b'{"inner": {"content": {"a": 1}}, "renamed": {"content": {"longName": 1}}}')
    with pytest.raises(InvalidMessage) as caught:
        decode(b'{"inner": {"content": {"a": 1}}, "renamed": {"content": {"a": 1}}}')
    assert caught.value.field == "renamed.content.a"


class CloseDay(msgspec.Struct):
    pass


def test_a_type_without_fields_says_so() -> None:
    RequestDecoder(CloseDay)(b"{}")
    with pytest.raises(InvalidMessage, match=r"a is not a field of CloseDay, which has none. Send \{\}.") as caught:
        RequestDecoder(CloseDay)(b'{"a": 1}')
    assert caught.value.field == "a"

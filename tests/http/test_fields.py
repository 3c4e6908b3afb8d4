"""Fields nobody declared are found however deep they are, and nothing that is declared is taken for one."""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import msgspec
import pytest
from msgspec import Struct

from twofold import InvalidMessage
from twofold.http.fields import strict_fields


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


@pytest.mark.parametrize("fields", GOOD)
def test_what_is_declared_passes(fields: dict[str, Any]) -> None:
    body = msgspec.json.encode(fields)
    msgspec.json.decode(body, type=All)
    strict_fields(All)(body)


@pytest.mark.parametrize(("fields", "place"), BAD)
def test_what_nobody_declared_is_named_with_its_place(fields: dict[str, Any], place: str) -> None:
    body = msgspec.json.encode(fields)
    msgspec.json.decode(body, type=All)
    with pytest.raises(InvalidMessage, match="has no field") as caught:
        strict_fields(All)(body)
    assert caught.value.field == place


class CloseDay(msgspec.Struct):
    pass


def test_where_nothing_is_to_be_said_that_is_said() -> None:
    strict_fields(CloseDay)(b"{}")
    with pytest.raises(InvalidMessage, match=r"There is no field 'a'.*send {}") as caught:
        strict_fields(CloseDay)(b'{"a": 1}')
    assert caught.value.field == "a"

"""Tags are read off the types of a message, however deep and in whatever shape an id stands there."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, NewType, NotRequired, Optional, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Struct, UnsetType

from twofold.domain.tags import MAX_TAG_VALUE, Tag, TagReader, id_reader, tag_of, tag_value
from twofold.errors import InvalidMessage, WiringError

OrderId = Annotated[str, Tag("order")]
CustomerId = Annotated[str, Tag("customer")]
SeatNumber = Annotated[int, Tag("seat")]
Long = Annotated[OrderId, msgspec.Meta(max_length=5)]
Named = NewType("Named", OrderId)  # type: ignore[valid-newtype, unused-ignore]
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Line(Struct, frozen=True):
    order: OrderId
    count: int = 1


@dataclass(frozen=True)
class Pair:
    left: OrderId
    right: CustomerId


class Point(NamedTuple):
    x: OrderId
    y: int = 0


class Loose(TypedDict):
    order: OrderId
    maybe: NotRequired[CustomerId]


class Box(Struct, Generic[T], frozen=True):
    inside: T
    more: list[T]


A_UUID = UUID(int=7)

SHAPES: list[tuple[Any, Any, list[str]]] = [
    (OrderId, "o1", ["order:o1"]),
    (str, "o1", []),
    (Named, "o1", ["order:o1"]),
    (Long, "o1", ["order:o1"]),
    (Annotated[str, msgspec.Meta(min_length=1), Tag("order"), "more"], "o1", ["order:o1"]),
    (Annotated[int, Tag("seat")], 7, ["seat:7"]),
    (Annotated[UUID, Tag("u")], A_UUID, [f"u:{A_UUID}"]),
    (Annotated[Colour, Tag("colour")], Colour.RED, ["colour:red"]),
    (OrderId | None, None, []),
    (Optional[OrderId], "o1", ["order:o1"]),  # noqa: UP045
    (OrderId | UnsetType, UNSET, []),
    (Annotated[str | None, Tag("order")], None, []),
    (Annotated[str | None, Tag("order")], "o1", ["order:o1"]),
    (OrderId | SeatNumber, 7, ["seat:7"]),
    (OrderId | SeatNumber, "o1", ["order:o1"]),
    (OrderId | list[CustomerId], "o1", ["order:o1"]),
    (OrderId | list[CustomerId], ["c1", "c2"], ["customer:c1", "customer:c2"]),
    (list[OrderId], ["o2", "o1", "o2"], ["order:o1", "order:o2"]),
    (list[OrderId | None], ["o2", None], ["order:o2"]),
    (set[OrderId], {"o1"}, ["order:o1"]),
    (frozenset[OrderId], frozenset({"o1"}), ["order:o1"]),
    (Sequence[OrderId], ["o1"], ["order:o1"]),
    (tuple[OrderId, ...], ("o1", "o2"), ["order:o1", "order:o2"]),
    (tuple[OrderId, CustomerId], ("o1", "c1"), ["customer:c1", "order:o1"]),
    (tuple[int, OrderId], (5, "o1"), ["order:o1"]),
    (dict[OrderId, int], {"o1": 1}, ["order:o1"]),
    (dict[str, OrderId], {"k": "o1"}, ["order:o1"]),
    (dict[CustomerId, list[OrderId]], {"c1": ["o1"]}, ["customer:c1", "order:o1"]),
    (Mapping[OrderId, Line], {"o1": Line("o2")}, ["order:o1", "order:o2"]),
    (Line, Line("o1"), ["order:o1"]),
    (Line | None, None, []),
    (list[Line], [Line("o1"), Line("o2")], ["order:o1", "order:o2"]),
    (Annotated[list[Line], msgspec.Meta(max_length=3)], [Line("o1")], ["order:o1"]),
    (list[list[dict[str, Line]]], [[{"a": Line("o1")}]], ["order:o1"]),
    (Line | Pair, Pair("o1", "c1"), ["customer:c1", "order:o1"]),
    (Pair, Pair("o1", "c1"), ["customer:c1", "order:o1"]),
    (Point, Point("o1"), ["order:o1"]),
    (Loose, {"order": "o1"}, ["order:o1"]),
    (Loose, {"order": "o1", "maybe": "c1"}, ["customer:c1", "order:o1"]),
    (Box[OrderId], Box("o1", ["o2"]), ["order:o1", "order:o2"]),
    (Box[str], Box("o1", ["o2"]), []),
    (Box[Line], Box(Line("o1"), []), ["order:o1"]),
    (Any, "o1", []),
]


@pytest.mark.parametrize(("hint", "value", "tags"), SHAPES, ids=lambda each: str(each)[:60])
def test_the_tags_of_a_field_are_read_in_every_shape(hint: Any, value: Any, tags: list[str]) -> None:
    message = msgspec.defstruct("Message", [("field", hint)], frozen=True)
    assert TagReader(message).tags(message(value)) == tuple(tags)


def test_a_dataclass_carries_tags_like_a_struct_and_class_variables_none() -> None:
    @dataclass(frozen=True)
    class Message:
        kind: ClassVar[OrderId] = "x"
        order: OrderId
        lines: list[Line]

    reader = TagReader(Message)
    assert reader.tags(Message("o1", [Line("o2"), Line("o1")])) == ("order:o1", "order:o2")
    assert reader.kinds == {"order"}


def test_values_come_in_order_of_appearance_each_once() -> None:
    message = msgspec.defstruct("Message", [("last", OrderId), ("lines", list[Line])])
    assert TagReader(message).values(message("z", [Line("b"), Line("z"), Line("a")]), "order") == ("z", "b", "a")


@pytest.mark.parametrize(
    ("hint", "single", "optional"),
    [
        (OrderId, True, False),
        (OrderId | None, True, True),
        (Line | None, True, True),
        (OrderId | int, True, True),
        (Annotated[str | None, Tag("order")], True, True),
        (list[OrderId], False, False),
        (Pair, True, False),
        (tuple[OrderId, int], True, False),
        (tuple[OrderId, OrderId], False, False),
        (Box[OrderId], False, False),
    ],
)
def test_whether_a_message_has_one_id_of_a_kind_is_known(hint: Any, single: bool, optional: bool) -> None:
    reader = TagReader(msgspec.defstruct("Message", [("field", hint)]))
    assert (reader.is_single("order"), reader.is_optional("order")) == (single, optional)


class Plain(Struct):
    name: str
    children: "list[Plain]" = []


class Tree(Struct):
    node: OrderId
    children: "list[Tree]" = []


def test_a_type_that_contains_itself_is_fine_without_ids_and_refused_with_them() -> None:
    message = msgspec.defstruct("Message", [("tree", Plain), ("order", OrderId)])
    assert TagReader(message).tags(message(Plain("a", [Plain("b")]), "o1")) == ("order:o1",)
    with pytest.raises(WiringError, match="Tree carries tags and contains itself at 'children"):
        TagReader(Tree)
    with pytest.raises(WiringError, match=r"at 'tree\.children\[\]'.*Move the ids out"):
        TagReader(msgspec.defstruct("Message", [("tree", Tree)]))


@pytest.mark.parametrize("inner", [list[str], Line, bytes, dict[str, str], tuple[str, int], Point])
def test_a_tag_around_what_is_no_id_is_refused(inner: Any) -> None:
    with pytest.raises(WiringError, match=r"field: Tag\('order'\) marks .* is not one id. Tag the id inside it"):
        TagReader(msgspec.defstruct("Message", [("field", Annotated[inner, Tag("order")])]))


@pytest.mark.parametrize("kind", ["", "Order", "order id", "1order", "-order", "order:", "ordér", "order_id"])
def test_a_tag_kind_is_lower_case_words(kind: str) -> None:
    with pytest.raises(WiringError, match="lower case letters, digits, hyphens"):
        Tag(kind)


def test_equal_kinds_are_equal_tags() -> None:
    assert Tag("order") == Tag("order") != Tag("customer")
    assert {Tag("order"), Tag("order")} == {Tag("order")}
    assert repr(Tag("order")) == "Tag('order')"


@pytest.mark.parametrize(
    ("value", "cure"),
    [
        ("", "must not be empty"),
        ("x" * (MAX_TAG_VALUE + 1), "at most 256 characters"),
        ("a\nb", "control characters"),
        ("a\0", "control characters"),
        ("\ud800", "control characters"),
        ("\u202e", "control characters"),
    ],
)
def test_a_value_that_cannot_be_a_tag_is_refused_with_its_field(value: str, cure: str) -> None:
    reader = TagReader(message := msgspec.defstruct("Message", [("lines", list[Line])]))
    with pytest.raises(InvalidMessage, match=cure) as refused:
        reader.tags(message([Line(value)]))
    assert refused.value.field == "lines[].order"
    with pytest.raises(InvalidMessage):
        reader.values(message([Line(value)]), "order")


@given(st.text(min_size=1, max_size=MAX_TAG_VALUE).filter(str.isprintable))
def test_what_is_printable_is_kept_letter_by_letter(value: str) -> None:
    assert tag_value(value, "field") == value


@pytest.mark.parametrize(
    ("hint", "kind"),
    [(OrderId, "order"), (OrderId | None, "order"), (Long, "order"), (Named, "order"), (str, None), (None, None)],
)
def test_a_field_type_tells_its_tag(hint: Any, kind: str | None) -> None:
    assert tag_of(hint) == (Tag(kind) if kind else None)


def test_a_tag_below_other_annotations_of_a_union_is_found() -> None:
    assert tag_of(Annotated[OrderId | None, msgspec.Meta(description="which")]) == Tag("order")


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (OrderId, "o1"),
        (SeatNumber, -7),
        (SeatNumber | None, 7),
        (Annotated[UUID, Tag("u")], A_UUID),
        (Annotated[Colour, Tag("c")], Colour.RED),
        (Annotated[date, Tag("d")], date(2024, 2, 29)),
        (Annotated[Decimal, Tag("m")], Decimal("1.50")),
    ],
)
def test_the_text_of_a_tag_becomes_the_id_it_was(hint: Any, value: Any) -> None:
    assert id_reader(hint)(tag_value(value, "field")) == value

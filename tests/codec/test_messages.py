"""Commands and queries from outside become their types, or an error that names the field and the cure."""

import math
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from twofold.codec import MessageCodec, RequestDecoder
from twofold.errors import InvalidMessage

CODEC = MessageCodec()


class Item(Struct, frozen=True):
    sku: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Buy(Struct, frozen=True):
    customer: str
    items: list[Item] = []
    rate: float = 1.0
    extra: dict[str, int] = {}


@given(st.builds(Buy, customer=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_what_was_encoded_comes_back(message: Buy) -> None:
    assert CODEC.decode(Buy, CODEC.encode(message)) == message
    assert RequestDecoder(Buy)(CODEC.encode(message)) == message


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        (b"{}", "customer", "customer is missing. Add it."),
        (b'{"customer":5}', "customer", "customer must be text, not a whole number."),
        (
            b'{"customer":"a","items":[{"sku":"x"},{"sku":"y","count":0}]}',
            "items[1].count",
            r"items\[1\]\.count must be at least 1\.",
        ),
        (b"[]", None, "The body must be an object, not a list."),
        (b'{"customer":"a","customer":"b"}', "customer", "is repeated"),
        (b'{"customer":"a","rate":NaN}', None, "NaN is not a JSON number"),
        (b"[" * 200_000, None, "nested deeper"),
        (rb'{"customer":"\u0000"}', "customer", r"U\+0000"),
        (b'{"customer":"a","items":[{"sku":"x","count":1e999}]}', "items[0].count", "too large"),
    ],
)
def test_a_bad_request_names_its_field(body: bytes, field: str | None, says: str) -> None:
    with pytest.raises(InvalidMessage, match=says) as refused:
        RequestDecoder(Buy)(body)
    assert refused.value.field == field


class Ask(Struct, frozen=True):
    name: str
    limit: int = 10
    rate: float = 1.0
    tags: list[str] = []


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "a"}, Ask("a")),
        ({"name": "5", "limit": "7", "rate": "0.5"}, Ask("5", 7, 0.5)),
        ({"name": "a", "tags": ["x", "y"]}, Ask("a", tags=["x", "y"])),
    ],
)
def test_text_of_a_query_string_becomes_the_types_of_the_query(fields: dict[str, Any], expected: Ask) -> None:
    assert CODEC.convert_request(Ask, fields) == expected


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        ({}, "name", "name is missing. Add it."),
        ({"name": "a", "limit": "ten"}, "limit", "limit must be a whole number, not text."),
        ({"name": "a\0"}, "name", r"U\+0000"),
        ({"name": "a", "tags": ["\ud800"]}, "tags[0]", "surrogate"),
        ({"name": "a", "rate": "nan"}, "rate", "finite"),
        ({"name": "a", "rate": "-inf"}, "rate", "finite"),
        ({"name": "a", "limit": str(2**53 + 1)}, "limit", "beyond"),
    ],
)
def test_a_bad_query_string_names_its_field(fields: dict[str, Any], field: str | None, says: str) -> None:
    with pytest.raises(InvalidMessage, match=says) as refused:
        CODEC.convert_request(Ask, fields)
    assert refused.value.field == field


def test_a_request_is_told_by_name_and_content() -> None:
    one = CODEC.request_hash("buy", Buy("a", extra={"x": 1, "y": 2}))
    assert len(one) == 16
    assert one == CODEC.request_hash("buy", Buy("a", extra={"y": 2, "x": 1}))
    others = [
        CODEC.request_hash("sell", Buy("a", extra={"x": 1, "y": 2})),
        CODEC.request_hash("buy", Buy("b", extra={"x": 1, "y": 2})),
        CODEC.request_hash("buy", Buy("a", extra={"x": 1, "y": 3})),
        CODEC.request_hash("buy", Buy("a", rate=math.pi)),
    ]
    assert len({one, *others}) == 5


def test_schemas_of_types_share_their_definitions() -> None:
    (buy, item), shared = CODEC.schemas([Buy, Item])
    assert (buy, item) == ({"$ref": "#/components/schemas/Buy"}, {"$ref": "#/components/schemas/Item"})
    assert shared["Buy"]["properties"]["items"]["items"] == item


def test_keys_that_are_no_text_are_put_in_order_too() -> None:
    counted = msgspec.defstruct("Counted", [("times", dict[int, str])], frozen=True)
    one, two = counted({10: "a", 9: "b"}), counted({9: "b", 10: "a"})
    assert CODEC.encode(one) == CODEC.encode(two)
    assert CODEC.decode(counted, CODEC.encode(one)) == one
    with pytest.raises(TypeError):
        CODEC.encode(object())

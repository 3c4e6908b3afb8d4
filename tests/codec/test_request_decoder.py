"""A request body is accepted or refused exactly as by the plain algorithm, which walks over every value."""

import json
import math
from typing import Any, NoReturn, cast

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from tests.codec.test_known_fields import All, Inner
from twofold.codec import RequestDecoder
from twofold.codec.edge import MAX_DEPTH, MAX_INTEGER, MAX_KEYS, MAX_STRING
from twofold.errors import InvalidMessage


class Refused(Exception):
    """The plain algorithm refuses a body."""


def plain_decode(kind: type, body: bytes) -> Any:
    """The reference: parse, check each value, decode, check the fields of each object. Slow, and easy to read."""
    try:
        parsed = json.loads(body.decode(), object_pairs_hook=unique_keys, parse_constant=refuse)
        check_value(parsed, 1)
        if count_keys(parsed) > MAX_KEYS:
            raise Refused
        message = msgspec.json.decode(body, type=kind)
    except (ValueError, RecursionError) as error:
        raise Refused from error
    check_fields(parsed, inspect.type_info(kind))
    return message


def refuse(_: str) -> NoReturn:
    raise Refused


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise Refused
    return dict(pairs)


def check_value(value: Any, depth: int) -> None:
    if isinstance(value, dict | list) and depth > MAX_DEPTH:
        raise Refused
    if isinstance(value, str) and ("\0" in value or len(value) > MAX_STRING or has_surrogate(value)):
        raise Refused
    if isinstance(value, int | float) and not (math.isfinite(value) and (type(value) is float or small(value))):
        raise Refused
    if isinstance(value, dict):
        for key in cast("dict[str, Any]", value):
            check_value(key, depth + 1)
    for inner in inner_values(value):
        check_value(inner, depth + 1)


def has_surrogate(text: str) -> bool:
    return any(0xD800 <= ord(letter) < 0xE000 for letter in text)


def small(value: float) -> bool:
    return -MAX_INTEGER <= value <= MAX_INTEGER


def inner_values(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else []


def count_keys(value: Any) -> int:
    own = len(cast("dict[str, Any]", value)) if isinstance(value, dict) else 0
    return own + sum(count_keys(inner) for inner in inner_values(value))


def check_fields(value: Any, kind: inspect.Type) -> None:
    match kind:
        case inspect.Metadata():
            check_fields(value, kind.type)
        case inspect.StructType(array_like=True):
            items = value if kind.tag_field is None else value[1:]
            for item, field in zip(items, kind.fields, strict=False):
                check_fields(item, field.type)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
            types = {field.encode_name: field.type for field in kind.fields}
            if isinstance(kind, inspect.StructType) and kind.tag_field is not None:
                types[kind.tag_field] = inspect.AnyType()
            for name, inner in value.items():
                if name not in types:
                    raise Refused
                check_fields(inner, types[name])
        case inspect.ListType():
            for item in value:
                check_fields(item, kind.item_type)
        case inspect.TupleType():
            for item, item_type in zip(value, kind.item_types, strict=True):
                check_fields(item, item_type)
        case inspect.NamedTupleType():
            for item, field in zip(value, kind.fields, strict=False):
                check_fields(item, field.type)
        case inspect.DictType():
            for item in value.values():
                check_fields(item, kind.value_type)
        case inspect.UnionType():
            for member in kind.types:
                if fits(value, member):
                    check_fields(value, member)
        case _:
            pass


def fits(value: Any, kind: inspect.Type) -> bool:
    try:
        msgspec.convert(value, to_python(kind))
    except msgspec.ValidationError:
        return False
    return True


def to_python(kind: inspect.Type) -> Any:
    """The types that stand in unions of `All`."""
    match kind:
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType() | inspect.NamedTupleType():
            return kind.cls
        case inspect.ListType():
            return list[to_python(kind.item_type)]  # type: ignore[misc]
        case inspect.TupleType():
            return tuple[tuple(to_python(item) for item in kind.item_types)]
        case _:
            return {inspect.IntType: int, inspect.StrType: str, inspect.NoneType: None}[type(kind)]


NAMES = [*All.__struct_fields__, *Inner.__struct_fields__, "type", "longName", "long_name", "children", "parent"]
WORDS = [
    "",
    "x",
    "cat",
    "dog",
    "tagged",
    "a:b",
    '":',
    r"\":",
    "ä🦊",
    r"\u0041",
    r"\u003a",
    r"\u0000",
    r"\ud800",
    r"\uD83E\uDD8A",
    r"\u00e9",
    r"\\u003a",
    "\x01",
]
NUMBERS = ["0", "-1", "1.5", "1e999", "NaN", "-Infinity", "0.30000000000000004", "01", "1e2"]
NUMBERS += [str(MAX_INTEGER), str(-MAX_INTEGER), str(MAX_INTEGER + 1), str(-MAX_INTEGER - 1), "9" * 30, "1" + "0" * 15]

SPACE = st.sampled_from(["", "", "", " ", "\n"])
TEXT = st.sampled_from(WORDS).map('"{}"'.format)
KEY = st.sampled_from([*NAMES, "b", r"\u0061", "a:b"]).map('"{}"'.format)
SCALAR = st.sampled_from(["null", "true", *NUMBERS]) | TEXT


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")


def objects(keys: st.SearchStrategy[str], inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON objects as text: keys may stand twice, with spaces wherever JSON allows them."""
    pairs = st.builds("{}{}:{}{}".format, keys, SPACE, SPACE, inner)
    return st.lists(pairs, max_size=3).map(lambda items: f"{{{','.join(items)}}}")


ANYTHING = st.recursive(SCALAR, lambda inner: arrays(inner) | objects(KEY, inner), max_leaves=8)
INNER = st.sampled_from(["{}", '{"a":1}', '{"a":1,"a":1}', '{"b":1}', '{"a" : 2}', '{"a":9007199254740993}'])
FITTING: dict[str, st.SearchStrategy[str]] = {
    "inner": INNER,
    "many": arrays(INNER),
    "fixed": INNER.map("[1,{}]".format),
    "named": objects(TEXT, INNER),
    "pet": st.sampled_from(['{"type":"cat","lives":1}', '{"type":"dog","lives":1}', '{"type":"dog","name":":"}']),
    "place": INNER.map("[{},2,{{}}]".format),
    "tagged": INNER.map('["tagged",{}]'.format),
    "renamed": st.sampled_from(['{"longName":1}', '{"long_name":1}']),
    "data": INNER.map('{{"inner":{}}}'.format),
    "typed": INNER.map('{{"inner":{}}}'.format),
    "pair": INNER.map("[{},1]".format),
    "tree": st.sampled_from(['{"children":[{"children":[]}]}', '{"parent":{"children":[{"child":1}]}}']),
    "free": objects(TEXT, ANYTHING),
    "anything": ANYTHING,
    "either": SCALAR | arrays(INNER),
}
FIELD = st.sampled_from(list(FITTING)).flatmap(lambda name: FITTING[name].map(f'"{name}":{{}}'.format))
BODY = st.lists(FIELD, max_size=4).map(lambda fields: f"{{{','.join(fields)}}}")


def same_as_plain(kind: type, body: bytes) -> bool:
    """Compares both, and tells whether they accept `body`."""
    try:
        expected = plain_decode(kind, body)
    except Refused:
        with pytest.raises(InvalidMessage):
            RequestDecoder(kind)(body)
        return False
    assert repr(RequestDecoder(kind)(body)) == repr(expected)
    return True


@pytest.mark.timeout(600)
@settings(max_examples=600, deadline=None)
@given(BODY | objects(KEY, ANYTHING) | ANYTHING)
@example('{"anything":{"a" :1,"a":2}}')
@example(r'{"anything":{"a":1,"a":"\u003a"}}')
@example('{"named":{"9999999999999999":{}}}')
def test_a_body_is_accepted_and_refused_as_by_the_plain_algorithm(body: str) -> None:
    same_as_plain(All, body.encode())


@settings(max_examples=300)
@given(BODY.map(str.encode), st.data())
def test_a_damaged_body_too(body: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, min(start + 2, len(body))))
    same_as_plain(All, body[:start] + data.draw(st.binary(max_size=2)) + body[end:])


LIMITS = {
    "the longest string": (b'{"anything":"%s"}' % (b"x" * MAX_STRING), True),
    "a longer string": (b'{"anything":"%s"}' % (b"x" * (MAX_STRING + 1)), False),
    "the deepest list": (b'{"anything":%s}' % (b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)), True),
    "a deeper list": (b'{"anything":%s}' % (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH), False),
    "a deep field of no use": (b'{"place":[{},1,%s]}' % (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH), False),
    "a deep tree": (b'{"tree":%s{}%s}' % (b'{"parent":' * MAX_DEPTH, b"}" * MAX_DEPTH), False),
    "many shallow lists": (b'{"anything":[%s[]]}' % (b"[]," * 1_000), True),
    "many keys": (json.dumps({"free": {str(n): n for n in range(MAX_KEYS - 1)}}).encode(), True),
    "too many keys": (json.dumps({"free": {str(n): n for n in range(MAX_KEYS)}}).encode(), False),
    "many colons": (json.dumps({"free": {str(n): ":::" for n in range(4_000)}}).encode(), True),
    "the largest integer": (b'{"anything":[9007199254740992,-9007199254740992]}', True),
    "long digits in a text and behind a point": (b'{"anything":["12345678901234567890",0.12345678901234567]}', True),
}


@pytest.mark.parametrize(("body", "accepted"), LIMITS.values(), ids=LIMITS)
def test_limits_are_the_same_too(body: bytes, accepted: bool) -> None:
    assert same_as_plain(All, body) is accepted

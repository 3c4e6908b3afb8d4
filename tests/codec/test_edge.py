"""What passes the edge is read alike by every parser and kept by every store; everything else is refused, quickly."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twofold.codec.edge import MAX_DEPTH, MAX_INTEGER, MAX_KEYS, MAX_STRING, check_text, parse_strictly
from twofold.errors import InvalidMessage

REFUSED: list[tuple[bytes, str, str | None]] = [
    # bytes, what the text says, the field it names
    (b"", "not JSON", None),
    (b"{", "not JSON", None),
    (b"{'a':1}", "not JSON", None),
    (b'{"a":1}x', "not JSON", None),
    (b'{"a":01}', "not JSON", None),
    (b'{"a":"\n"}', "not JSON", None),
    (b'{"a":"\\x"}', "not JSON", None),
    (b'\xef\xbb\xbf{"a":1}', "BOM", None),
    ('{"a":1}'.encode("utf-16"), "not UTF-8|not JSON", None),
    (b'{"a":"\xff"}', r"not UTF-8 \(byte 6\)", None),
    (b'{"a":"\xed\xa0\x80"}', "not UTF-8", None),
    (b'{"a":"\xc0\xaf"}', "not UTF-8", None),
    (b'{"a":NaN}', "NaN is not a JSON number", None),
    (b'{"a":[Infinity]}', "Infinity is not a JSON number", None),
    (b'{"a":-Infinity}', "-Infinity is not a JSON number", None),
    (b'{"a":{"b":[1,1e999]}}', r"a\.b\[1\] is too large for a number", "a.b[1]"),
    (b'{"a":-1e400000}', "a is too large", "a"),
    (b'{"a":9007199254740993}', r"a is beyond ±2\^53", "a"),
    (b'{"a":-9007199254740993}', r"a is beyond ±2\^53", "a"),
    (b"[1,18446744073709551616]", r"\[1\] is beyond ±2\^53", "[1]"),
    (b'{"a":' + b"9" * 4_000 + b"}", "beyond", "a"),
    (b'{"a":' + b"9" * 5_000 + b"}", "not JSON: Exceeds the limit", None),
    (rb'{"a":"x\u0000"}', r"a contains the character U\+0000", "a"),
    (rb'{"x\u0000":1}', r"U\+0000", r"x\x00"),
    (rb'{"a":["\ud800"]}', r"a\[0\] contains half of a surrogate pair", "a[0]"),
    (rb'{"a":"\udc00\ud800"}', "half of a surrogate pair", "a"),
    (rb'{"\udfff":1}', "half of a surrogate pair", r"\udfff"),
    (b'{"a":1,"a":1}', "'a' is repeated", "a"),
    (rb'{"a":1,"\u0061":2}', "'a' is repeated", "a"),
    (rb'[{"b":{"k":1,"j":2,"\u006b":3}}]', "'k' is repeated", "k"),
    (rb'{"\ud800":1,"\ud800":2}', r"'\\ud800' is repeated", r"\ud800"),
    (b'{"a":"' + b"x" * (MAX_STRING + 1) + b'"}', "longer than 262144 characters", "a"),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "deeper than 64 levels", None),
    (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "deeper than 64 levels", None),
    (json.dumps({str(n): n for n in range(MAX_KEYS + 1)}).encode(), "keys beyond 10000", None),
    (json.dumps([{"a": n} for n in range(MAX_KEYS + 1)]).encode(), "keys beyond 10000", None),
]

ACCEPTED: list[bytes] = [
    b"{}",
    b" [ ] ",
    b"null",
    b"true",
    b'"x"',
    b"-0.0",
    b'{"a":1.5e300,"b":-1e-400}',
    b'{"a":9007199254740992,"b":-9007199254740992}',
    rb'{"a":"\ud83e\udd8a","b":"\\u0000"}',
    '{"ä":"日本 🦊  ","":""}'.encode(),
    b'{"a":{"x":1},"b":{"x":1}}',
    b'{"a":1,"A":1}',
    b'{"a":"' + b"x" * MAX_STRING + b'"}',
    b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    json.dumps({str(n): n for n in range(MAX_KEYS)}).encode(),
]


@pytest.mark.parametrize(("body", "says", "field"), REFUSED, ids=lambda each: repr(each)[:40])
def test_what_parsers_or_stores_would_treat_differently_is_refused(body: bytes, says: str, field: str | None) -> None:
    with pytest.raises(InvalidMessage, match=says) as refused:
        parse_strictly(body)
    if field is not None:
        assert refused.value.field == field


@pytest.mark.parametrize(("body", "says", "field"), REFUSED, ids=lambda each: repr(each)[:40])
def test_a_refusal_can_always_be_sent_back(body: bytes, says: str, field: str | None) -> None:
    with pytest.raises(InvalidMessage) as refused:
        parse_strictly(body)
    text = f"{refused.value} {refused.value.field}"
    assert len(text.encode("utf-8")) < 1_000
    assert "\0" not in text


@pytest.mark.parametrize("body", ACCEPTED, ids=lambda each: repr(each)[:40])
def test_what_everyone_reads_alike_passes(body: bytes) -> None:
    parse_strictly(body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_what_is_nested_200_000_deep_costs_little(opening: bytes) -> None:
    body = opening * 200_000
    started = time.process_time()
    with pytest.raises(InvalidMessage):
        parse_strictly(body)
    assert time.process_time() - started < 1, "it costs with the square of its depth"


def test_a_body_of_a_mebibyte_costs_little() -> None:
    body = json.dumps([0] * 340_000).encode()
    started = time.process_time()
    parse_strictly(body)
    assert time.process_time() - started < 5


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner)
    ),
)


@given(JSON, st.booleans())
def test_any_harmless_value_passes(value: Any, ascii_only: bool) -> None:
    parse_strictly(json.dumps(value, ensure_ascii=ascii_only).encode())


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,\\u0dae1.9-N \n', max_size=60).map(str.encode))
def test_any_bytes_pass_or_are_refused_and_never_anything_else(body: bytes) -> None:
    try:
        parse_strictly(body)
    except InvalidMessage:
        return
    assert json.loads(body) == json.loads(body.decode())


@given(st.text())
def test_any_text_passes_exactly_if_it_can_be_kept(text: str) -> None:
    try:
        check_text(text, "name")
    except InvalidMessage as refused:
        assert refused.field == "name"
        assert "\0" in text or any(0xD800 <= ord(letter) < 0xE000 for letter in text)
    else:
        assert "\0" not in text.encode("utf-8").decode()

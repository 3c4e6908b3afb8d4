"""A value that does not fit its type is reported in our words: the field, what it must be, and the cure."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta, Struct

from twofold.codec.misfit_sentences import misfit_sentence


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Line(Struct):
    count: Annotated[int, Meta(ge=1, le=9)]


class Everything(Struct):
    name: Annotated[str, Meta(min_length=2, max_length=3)] = "ab"
    code: Annotated[str, Meta(pattern="^[a-z]+$")] = "a"
    lines: Annotated[list[Line], Meta(max_length=2)] = []
    prices: dict[str, float] = {}
    note: str | None = None
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    even: Annotated[int, Meta(multiple_of=2)] = 2
    size: Size = Size.SMALL
    way: Literal["in", "out"] = "in"
    at: Annotated[datetime, Meta(tz=True)] | None = None
    day: date | None = None
    lasts: timedelta | None = None
    key: UUID | None = None
    total: Decimal | None = None
    raw: bytes = b""
    pair: tuple[int, int] = (1, 2)
    open: bool = False


class Needed(Struct):
    inner: Line


@pytest.mark.parametrize(
    ("given", "field", "problem"),
    [
        ({"name": 5}, "name", "must be text, not a whole number"),
        ({"name": "a"}, "name", "must have at least 2 characters"),
        ({"name": "abcd"}, "name", "must have at most 3 characters"),
        ({"code": "A"}, "code", "must match the pattern '^[a-z]+$'"),
        ({"lines": [{"count": 1}, {"count": 0}]}, "lines[1].count", "must be at least 1"),
        ({"lines": [{"count": 10}]}, "lines[0].count", "must be at most 9"),
        ({"lines": [{}]}, "lines[0].count", "is missing. Add it"),
        ({"lines": [{"count": 1}] * 3}, "lines", "must have at most 2 items"),
        ({"lines": {}}, "lines", "must be a list, not an object"),
        ({"prices": {"a": "b"}}, "prices[...]", "must be a number, not text"),
        ({"note": 1}, "note", "must be text or null, not a whole number"),
        ({"share": 0}, "share", "must be more than 0.0"),
        ({"share": 1}, "share", "must be less than 1.0"),
        ({"even": 3}, "even", "must be a multiple of 2"),
        ({"size": "huge"}, "size", "must be one of its values, not 'huge'"),
        ({"way": "up"}, "way", "must be one of its values, not 'up'"),
        ({"at": "2026-01-31T12:00:00"}, "at", "must have a time zone, for example 2026-01-31T12:00:00Z"),
        ({"at": "soon"}, "at", "must be a date and time such as 2026-01-31T12:00:00Z"),
        ({"day": "soon"}, "day", "must be a date such as 2026-01-31"),
        ({"lasts": "long"}, "lasts", "must be a duration such as PT90S"),
        ({"key": "k"}, "key", "must be a UUID"),
        ({"total": "much"}, "total", "must be a decimal number"),
        ({"raw": "§"}, "raw", "must be text in Base64"),
        ({"pair": [1]}, "pair", "must have exactly 2 items"),
        ({"open": "yes"}, "open", "must be true or false, not text"),
        ([], "", "must be an object, not a list"),
    ],
)
def test_each_way_not_to_fit_is_a_sentence_about_its_field(given: Any, field: str, problem: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(msgspec.json.encode(given), type=Everything)
    assert misfit_sentence(raised.value) == (field, problem)


def test_a_missing_field_of_a_field_is_named_with_its_path() -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.json.decode(b'{"inner":{}}', type=Needed)
    assert misfit_sentence(raised.value).about("The body") == "inner.count is missing. Add it"


def test_what_a_type_checks_itself_stays_as_it_says_it() -> None:
    assert misfit_sentence(msgspec.ValidationError("The end is before the start")).about("The body") == (
        "The body does not fit: The end is before the start"
    )

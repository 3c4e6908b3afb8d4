"""Events come back from their bytes as they were, whichever version wrote them; what would not is never written."""

import math
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from twofold.codec import EventCodec
from twofold.domain.envelope import Envelope, Metadata
from twofold.domain.events import Event, NewEvent, RecordedEvent
from twofold.domain.tags import Tag
from twofold.errors import InvalidMessage, Unavailable, UnreadableEvent, WiringError

OrderId = Annotated[str, Tag("order")]


class Priced(Struct, frozen=True):
    order_id: OrderId
    total: int
    currency: str = "EUR"
    note: str | None = None
    rate: float = 1.0
    at: datetime | None = None
    parts: dict[str, int] = {}
    seats: frozenset[int] = frozenset()
    by_number: dict[int, str] = {}


def cents(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "total": fields["total"] * 100}


def add_currency(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "currency": "DEM"}


CODEC = EventCodec([Event(Priced, name="priced", version=3, upcasters={1: cents, 2: add_currency})])


def recorded(new: NewEvent) -> RecordedEvent:
    return RecordedEvent(1, new.type, new.version, new.payload, Envelope(new.id, new.tags, Metadata(0, "c", "c")))


def stored(payload: bytes, version: int, type: str = "priced") -> RecordedEvent:
    return recorded(NewEvent("c.0", type, version, (), payload))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PRICED = st.builds(
    Priced,
    order_id=st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20),
    total=st.integers(-(2**53), 2**53),
    currency=TEXT,
    note=st.none() | TEXT,
    rate=st.floats(allow_nan=False, allow_infinity=False),
    at=st.none() | st.datetimes(timezones=st.just(UTC)),
    parts=st.dictionaries(TEXT, st.integers(0, 9)),
    seats=st.frozensets(st.integers(0, 99)),
    by_number=st.dictionaries(st.integers(0, 99), TEXT),
)


@given(PRICED)
def test_an_event_comes_back_as_it_was(event: Priced) -> None:
    new = CODEC.encode(event, "c-1", 4)
    assert (new.id, new.type, new.version, new.tags) == ("c-1.4", "priced", 3, (f"order:{event.order_id}",))
    assert CODEC.decode(recorded(new)) == event
    assert CODEC.tags_of(recorded(new)) == new.tags


def test_equal_events_are_equal_bytes() -> None:
    one = Priced("o1", 1, parts={"a": 1, "b": 2}, seats=frozenset(range(40)))
    two = Priced("o1", 1, parts={"b": 2, "a": 1}, seats=frozenset(reversed(range(40))))
    assert CODEC.encode(one, "c", 0) == CODEC.encode(two, "c", 0)


def test_old_versions_climb_every_step_from_their_own() -> None:
    assert CODEC.decode(stored(b'{"order_id":"o1","total":5}', 1)) == Priced("o1", 500, "DEM")
    assert CODEC.decode(stored(b'{"order_id":"o1","total":5}', 2)) == Priced("o1", 5, "DEM")
    assert CODEC.decode(stored(b'{"order_id":"o1","total":5}', 3)) == Priced("o1", 5, "EUR")


def test_an_upcast_event_may_have_every_type_that_a_present_one_may() -> None:
    event = Priced("o1", 100, "DEM", "x", 0.5, datetime(2024, 5, 1, tzinfo=UTC), {"a": 1}, frozenset({1}), {7: "x"})
    old = msgspec.json.encode(msgspec.structs.replace(event, total=1))
    assert CODEC.decode(stored(old, 1)) == event


@pytest.mark.parametrize(("type", "version"), [("priced", 4), ("unheard-of", 1)])
def test_what_a_newer_process_wrote_is_unavailable_here(type: str, version: int) -> None:
    with pytest.raises(
        Unavailable, match=f"'{type}' version {version}, which this process does not know. Start it with"
    ):
        CODEC.decode(stored(b"{}", version, type))


@pytest.mark.parametrize("payload", [b"{}", b'{"order_id":"o1","total":"5"}', b"null", b"{", b""])
def test_bytes_that_do_not_fit_their_type_are_an_error(payload: bytes) -> None:
    with pytest.raises(
        UnreadableEvent, match=r"^The 'priced' event \(version 3\) at position 1 cannot be read: "
    ) as caught:
        CODEC.decode(stored(payload, 3))
    assert isinstance(caught.value.__cause__, msgspec.DecodeError)
    assert caught.value.position == 1


@pytest.mark.parametrize("error", [ValueError("no"), Unavailable("no"), SystemExit(3)])
def test_whatever_an_upcaster_raises_the_event_is_unreadable(error: BaseException) -> None:
    def fail(fields: dict[str, Any]) -> dict[str, Any]:
        raise error

    codec = EventCodec([Event(Priced, version=2, upcasters={1: fail})])
    with pytest.raises(UnreadableEvent) as caught:
        codec.decode(stored(b"{}", 1))
    assert caught.value.__cause__ is error


def test_an_upcaster_that_returns_no_fields_is_told_what_it_returned() -> None:
    codec = EventCodec([Event(Priced, version=2, upcasters={1: lambda fields: None})])  # type: ignore[arg-type, return-value]
    with pytest.raises(UnreadableEvent, match="an upcaster returned None, not the fields of the event as a dict"):
        codec.decode(stored(b"{}", 1))


def test_fields_of_the_future_are_passed_over() -> None:
    assert CODEC.decode(stored(b'{"order_id":"o1","total":5,"new":1}', 3)) == Priced("o1", 5)


@pytest.mark.parametrize("rate", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_not_is_never_written(rate: float) -> None:
    with pytest.raises(InvalidMessage, match="'priced' holds a number that is not finite"):
        CODEC.encode(Priced("o1", 1, rate=rate), "c", 0)


def test_the_word_null_in_a_text_is_nothing_special() -> None:
    assert CODEC.decode(recorded(CODEC.encode(Priced("o1", 1, note="null"), "c", 0))).note == "null"


def test_an_id_that_cannot_be_a_tag_is_never_written() -> None:
    with pytest.raises(InvalidMessage, match="order_id is an id and must not be empty"):
        CODEC.encode(Priced("", 1), "c", 0)


def test_what_no_module_lists_is_no_event() -> None:
    with pytest.raises(TypeError, match="'x' is not an event that a module lists"):
        CODEC.encode("x", "c", 0)


class Money:
    """A plain class: nothing says how it is written."""


class Line(Struct, frozen=True):
    price: Money


class Charged(Struct, frozen=True):
    order_id: OrderId
    lines: list[Line]


def test_an_event_that_cannot_be_written_as_json_is_refused_at_start_with_its_type_and_the_cure() -> None:
    with pytest.raises(WiringError, match=r"Charged has a field of type Money.*Make Money a msgspec Struct"):
        EventCodec([Event(Charged)])

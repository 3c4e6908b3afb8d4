"""Events are stored under names that never follow class paths, and are recorded with all that is known of them."""

from datetime import UTC, datetime

import pytest

from tests.sample_domains.orders import OrderPlaced
from twofold.domain.envelope import Envelope, Metadata, StoredEnvelope, decode_envelope, encode_envelope
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS, EventQuery, QueryItem
from twofold.domain.events import Event, RecordedEvent, kebab_case


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("OrderPlaced", "order-placed"),
        ("Order", "order"),
        ("HTTPCall", "http-call"),
        ("CallOverHTTP", "call-over-http"),
        ("ABTestEnded", "ab-test-ended"),
        ("AThing", "a-thing"),
        ("Order2Placed", "order2-placed"),
        ("Version2", "version2"),
        ("order_placed", "order-placed"),
        ("Order_Placed", "order-placed"),
        ("ÄrgerGemeldet", "ärger-gemeldet"),
    ],
)
def test_a_class_name_becomes_a_stored_name(name: str, stored: str) -> None:
    assert kebab_case(name) == stored


def test_a_given_name_wins() -> None:
    assert Event(OrderPlaced).name == "order-placed"
    assert Event(OrderPlaced, name="sale").name == "sale"


def test_an_envelope_is_read_only_when_someone_looks_and_only_once() -> None:
    envelope = Envelope("c.0", ("a:1",), Metadata(1_500_000, "c", "k", None, "ann"))
    event = RecordedEvent(3, "a", 1, b"{}", encode_envelope(envelope))
    assert (event.position, event.type, event.version, event.payload) == (3, "a", 1, b"{}")
    assert isinstance(event.wrapped, StoredEnvelope)
    assert event.wrapped.decoded is None
    assert (event.id, event.tags, event.actor, event.metadata.command_id) == ("c.0", ("a:1",), "ann", "c")
    assert event.time == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert event.envelope is event.envelope == envelope


@pytest.mark.parametrize(
    ("envelope", "head"),
    [
        (Envelope("c.0", (), Metadata(5, "c", "c")), b'["c",5,0]'),
        (Envelope("c.0", (), Metadata(5, "c", "k")), b'["c",5,0,"k",null,null,0]'),
        (Envelope("c.0", (), Metadata(5, "c", "")), b'["c",5,0,"",null,null,0]'),
        (Envelope("c.12", (), Metadata(5, "c", "c", "b", "ann", 3)), b'["c",5,12,null,"b","ann",3]'),
        (Envelope("c.01", (), Metadata(5, "c", "c")), b'["c",5,"c.01"]'),
        (Envelope("other", ("b:2", "a:1"), Metadata(5, "c", "c")), b'["c",5,"other"]'),
        (Envelope("c.\u00b2", (), Metadata(5, "c", "c")), '["c",5,"c.\u00b2"]'.encode()),
    ],
)
def test_an_envelope_is_stored_briefly_and_read_back_as_it_was(envelope: Envelope, head: bytes) -> None:
    stored = encode_envelope(envelope)
    assert stored.head == head
    assert decode_envelope(stored) == envelope


def test_recorded_events_are_equal_by_all_they_hold() -> None:
    envelope = Envelope("c.0", (), Metadata(0, "c", "c"))
    one, same, other = (RecordedEvent(1, "a", 1, payload, envelope) for payload in (b"1", b"1", b"2"))
    assert one == same != other
    assert not one != same  # noqa: SIM202
    assert hash(one) == hash(same)
    assert one != "a"
    assert "'a'" in repr(one)


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        (ALL_EVENTS, True),
        (NO_EVENTS, False),
        (EventQuery((QueryItem(("b", "a")),)), True),
        (EventQuery((QueryItem(("b",)),)), False),
        (EventQuery((QueryItem((), ("x:1", "y:1")),)), True),
        (EventQuery((QueryItem((), ("x:1", "z:1")),)), False),
        (EventQuery((QueryItem(("b",)), QueryItem(("a",), ("x:1",)))), True),
        (EventQuery((QueryItem(("b",), ("x:1",)), QueryItem(("a",), ("x:2",)))), False),
    ],
)
def test_items_are_joined_by_or_types_by_or_tags_by_and(query: EventQuery, matches: bool) -> None:
    assert query.matches("a", frozenset({"x:1", "y:1"})) is matches

"""A probe for consistency boundaries: every event records which events its decision had read.

A decision model here is the list of the positions in its boundary, so the log itself shows whether a decision was made
on exactly the events before it.
"""

from typing import Annotated

import msgspec

from twofold.codec import EventCodec
from twofold.domain.decision import DecisionModel
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module
from twofold.domain.tags import Tag
from twofold.errors import Rejected
from twofold.write_store.port import WriteStore

ThingId = Annotated[str, Tag("thing")]
BoxId = Annotated[str, Tag("box")]
Seen = tuple[int, ...]


class Put(msgspec.Struct, frozen=True):
    """An event that records the positions that each model of its decision had read."""

    thing: ThingId
    box: BoxId
    boundary: str
    seen: dict[str, Seen]


class Marked(msgspec.Struct, frozen=True):
    """An event of another type with the same tags: seen by no model by type."""

    thing: ThingId
    box: BoxId


class OfThing(msgspec.Struct, frozen=True):
    seen: Seen = ()

    def evolve(self, event: Put | Marked, recorded: RecordedEvent) -> "OfThing":
        return OfThing((*self.seen, recorded.position))


class OfBoth(msgspec.Struct, frozen=True):
    seen: Seen = ()

    def evolve(self, event: Put | Marked, recorded: RecordedEvent) -> "OfBoth":
        return OfBoth((*self.seen, recorded.position))


class OfType(msgspec.Struct, frozen=True):
    seen: Seen = ()

    def evolve(self, event: Put, recorded: RecordedEvent) -> "OfType":
        return OfType((*self.seen, recorded.position))


class PutByThing(msgspec.Struct, frozen=True):
    thing: ThingId
    box: BoxId
    mood: int = 0


class PutByBoth(msgspec.Struct, frozen=True):
    thing: ThingId
    box: BoxId
    mood: int = 0


class PutByType(msgspec.Struct, frozen=True):
    thing: ThingId
    box: BoxId
    mood: int = 0


class PutByAll(msgspec.Struct, frozen=True):
    thing: ThingId
    box: BoxId
    mood: int = 0


class Mark(msgspec.Struct, frozen=True):
    thing: ThingId
    box: BoxId


Command = PutByThing | PutByBoth | PutByType | PutByAll


def _put(command: Command, boundary: str, **seen: Seen) -> Put | list[Put] | None:
    """Moods make every kind of answer depend on what was seen."""
    total = sum(len(positions) for positions in seen.values())
    if command.mood == 1 and total % 2:
        raise Rejected("odd", msgspec.json.encode(seen).decode())
    if command.mood == 2 and total % 3:
        return None
    put = Put(command.thing, command.box, boundary, seen)
    return [put, put] if command.mood == 3 else put


def put_by_thing(command: PutByThing, of_thing: OfThing) -> Put | list[Put] | None:
    return _put(command, "thing", thing=of_thing.seen)


def put_by_both(command: PutByBoth, of_both: OfBoth) -> Put | list[Put] | None:
    return _put(command, "both", both=of_both.seen)


def put_by_type(command: PutByType, of_type: OfType) -> Put | list[Put] | None:
    return _put(command, "type", type=of_type.seen)


def put_by_all(command: PutByAll, of_thing: OfThing, of_both: OfBoth, of_type: OfType) -> Put | list[Put] | None:
    return _put(command, "all", thing=of_thing.seen, both=of_both.seen, type=of_type.seen)


def mark(command: Mark) -> Marked:
    return Marked(command.thing, command.box)


MODELS = [DecisionModel(OfThing, by=ThingId), DecisionModel(OfBoth, by=[ThingId, BoxId]), DecisionModel(OfType)]
RULES = Module(
    "rules",
    events=[Put, Marked],
    models=MODELS,
    decisions=[put_by_thing, put_by_both, put_by_type, put_by_all, mark],
)


def boundary_of(name: str, thing: str, box: str, event: RecordedEvent) -> bool:
    """The rule of boundaries, written out once more: whether `event` is in the boundary of a model."""
    if name == "thing":
        return f"thing:{thing}" in event.tags
    if name == "both":
        return f"thing:{thing}" in event.tags and f"box:{box}" in event.tags
    return event.type == "put"


async def check_boundaries(write_store: WriteStore, codec: EventCodec) -> int:
    """AssertionError unless every decision had seen exactly the events before its own in its boundary (C1).

    Answers how many decisions there were.
    """
    events = (await write_store.read(ALL_EVENTS)).events
    assert [event.position for event in events] == list(range(1, len(events) + 1)), "positions have a gap"
    first_of: dict[str, int] = {}
    for event in events:
        first_of.setdefault(event.metadata.command_id, event.position)
    for event in events:
        if event.type != "put":
            continue
        put: Put = codec.decode(event)
        before = first_of[event.metadata.command_id]
        for name, seen in put.seen.items():
            there = tuple(e.position for e in events[: before - 1] if boundary_of(name, put.thing, put.box, e))
            assert seen == there, f"position {event.position} was decided on {seen} by {name}, but there was {there}"
    return len(first_of)

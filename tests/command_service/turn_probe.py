"""A probe for decisions in turn: every event records which commands its decision had seen, by models without positions.

Such models can be folded from events that are not written yet, so these commands are decided on pending states.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from twofold.codec import EventCodec
from twofold.domain.decision import Context, DecisionModel
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.errors import Rejected
from twofold.write_store.port import WriteStore

ThingId = Annotated[str, Tag("thing")]
BoxId = Annotated[str, Tag("box")]
Seen = tuple[str, ...]


class Taken(msgspec.Struct, frozen=True):
    """An event that records what each model of its decision had seen. `number` counts all events of its type."""

    things: list[ThingId]
    box: BoxId
    command: str
    seen: dict[str, Seen]


class Invoiced(msgspec.Struct, frozen=True):
    box: BoxId
    number: int
    command: str


class OfThing(msgspec.Struct, frozen=True):
    seen: Seen = ()

    def evolve(self, event: Taken) -> "OfThing":
        return OfThing((*self.seen, event.command))


class OfBox(msgspec.Struct, frozen=True):
    seen: Seen = ()

    def evolve(self, event: Taken | Invoiced) -> "OfBox":
        return OfBox((*self.seen, event.command))


class OfType(msgspec.Struct, frozen=True):
    seen: Seen = ()

    def evolve(self, event: Taken) -> "OfType":
        return OfType((*self.seen, event.command))


class Invoices(msgspec.Struct, frozen=True):
    last: int = 0

    def evolve(self, event: Invoiced) -> "Invoices":
        return Invoices(event.number)


class Take(msgspec.Struct, frozen=True):
    """Decided on each thing alone. `mood` 1: rejected where the number of what was seen is odd; 2: nothing to do."""

    things: list[ThingId]
    box: BoxId
    mood: int = 0


class TakeFromBox(msgspec.Struct, frozen=True):
    """Decided on the things and on the box."""

    things: list[ThingId]
    box: BoxId
    mood: int = 0


class TakeByType(msgspec.Struct, frozen=True):
    """Decided on all events of the type."""

    things: list[ThingId]
    box: BoxId
    mood: int = 0


class Invoice(msgspec.Struct, frozen=True):
    """Gets the next number of all."""

    box: BoxId


Command = Take | TakeFromBox | TakeByType


def _take(command: Command, context: Context, **seen: Seen) -> Taken | list[Taken] | None:
    total = sum(len(commands) for commands in seen.values())
    if command.mood == 1 and total % 2:
        raise Rejected("odd", msgspec.json.encode(seen).decode())
    if command.mood == 2 and total % 3:
        return None
    taken = Taken(command.things, command.box, context.command_id, seen)
    return [taken, taken] if command.mood == 3 else taken


def take(command: Take, things: dict[ThingId, OfThing], context: Context) -> Taken | list[Taken] | None:
    return _take(command, context, **{f"thing:{name}": thing.seen for name, thing in things.items()})


def take_from_box(
    command: TakeFromBox, things: dict[ThingId, OfThing], box: OfBox, context: Context
) -> Taken | list[Taken] | None:
    seen = {f"thing:{name}": thing.seen for name, thing in things.items()}
    return _take(command, context, **seen, **{f"box:{command.box}": box.seen})


def take_by_type(command: TakeByType, every: OfType, context: Context) -> Taken | list[Taken] | None:
    return _take(command, context, type=every.seen)


def invoice(command: Invoice, invoices: Invoices, context: Context) -> Invoiced:
    return Invoiced(command.box, invoices.last + 1, context.command_id)


class Count(msgspec.Struct, frozen=True):
    box: str
    commands: Seen


def count(row: Count | None, event: Taken | Invoiced) -> Count:
    return Count(event.box, (*(row.commands if row else ()), event.command))


MODELS = [
    DecisionModel(OfThing, by=ThingId),
    DecisionModel(OfBox, by=BoxId),
    DecisionModel(OfType),
    DecisionModel(Invoices),
]
DECISIONS = [take, take_from_box, take_by_type, invoice]
TURNS = Module("turns", events=[Taken, Invoiced], models=MODELS, decisions=DECISIONS)
TURNS_WITH_ROWS = Module(
    "turns",
    events=[Taken, Invoiced],
    models=MODELS,
    decisions=DECISIONS,
    projections=[Projection("counts", count, key=BoxId, lifecycle="inline")],
)


def seen_of(name: str, events: Sequence[RecordedEvent], codec: EventCodec) -> Seen:
    """What a model of this name sees of these events, by a second implementation of the rule of boundaries."""
    kind, _, _ = name.partition(":")
    types = {"thing": ("taken",), "type": ("taken",), "box": ("taken", "invoiced")}[kind]
    mine = [e for e in events if e.type in types and (kind == "type" or name in e.tags)]
    return tuple(codec.decode(event).command for event in mine)


async def check_turns(write_store: WriteStore, codec: EventCodec) -> list[str]:
    """AssertionError unless every decision had seen exactly what is before it, and invoices have no gap.

    The command ids in the order of their events, each once.
    """
    events = (await write_store.read(ALL_EVENTS)).events
    first_of: dict[str, int] = {}
    invoices = 0
    for at, recorded in enumerate(events):
        event = codec.decode(recorded)
        before = first_of.setdefault(event.command, at)
        if isinstance(event, Invoiced):
            invoices += 1
            assert event.number == invoices, f"invoice {event.number} is the {invoices}th"
            continue
        for name, seen in event.seen.items():
            there = seen_of(name, events[:before], codec)
            assert seen == there, f"position {at + 1} was decided on {seen} of {name}, but there was {there}"
    ids = [event.id for event in events]
    assert len(set(ids)) == len(ids), "a command was written twice"
    return list(first_of)


async def check_turn_rejection(write_store: WriteStore, codec: EventCodec, rejected: Rejected, before: int) -> None:
    """AssertionError unless the rejection was right at one moment: at the head `before` the command, or later."""
    events = (await write_store.read(ALL_EVENTS)).events
    seen = msgspec.json.decode(rejected.reason, type=dict[str, Seen])
    for upto in range(before, len(events) + 1):
        if all(seen_of(name, events[:upto], codec) == commands for name, commands in seen.items()):
            return
    raise AssertionError(f"rejected on what was never the log after position {before}: {seen}")

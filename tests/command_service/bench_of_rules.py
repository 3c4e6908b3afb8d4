"""In charge of a domain whose every event says what its decision had seen, and of services put together over any store.

A decision model here is the list of the positions in its boundary, so that the log itself shows whether a decision was
made on exactly the events before it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Annotated

import msgspec

from twofold.codec import EventCodec, MessageCodec
from twofold.command_service import CommandService
from twofold.command_service.batcher import Batcher
from twofold.command_service.folds import Folds
from twofold.command_service.inline_projections import InlineProjections
from twofold.domain.decision import DecisionModel
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module, Wiring
from twofold.domain.tags import Tag
from twofold.errors import Rejected
from twofold.world import RealWorld, World
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome, WriteStore
from twofold.write_store.sqlite import SqliteWriteStore

ThingId = Annotated[str, Tag("thing")]
BoxId = Annotated[str, Tag("box")]
Seen = tuple[int, ...]


class Put(msgspec.Struct, frozen=True):
    """What happened, and the positions each model of its decision had seen."""

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
    total = sum(len(each) for each in seen.values())
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


class Services:
    """A command service with its folds and its batcher, over a store it may share with others."""

    def __init__(
        self,
        write_store: WriteStore,
        module: Module = RULES,
        *,
        cached: int = 1_000,
        retries: int = 100,
        queue: int = 10_000,
        world: World | None = None,
    ) -> None:
        world = world or RealWorld()
        wiring = Wiring([module])
        self.codec = EventCodec(wiring.events.values())
        self.write_store = write_store
        self.folds = Folds(write_store, self.codec, cached)
        self.batcher = Batcher(write_store, self.folds, world, commands=512, size=4_194_304, queue=queue)
        messages = MessageCodec()
        self.inline = InlineProjections(wiring, write_store, self.codec, self.batcher, 1_000)
        self.commands = CommandService(
            wiring, self.folds, self.codec, messages, self.batcher, world, self.inline, retries=retries
        )
        self.handle = self.commands.handle

    async def __aenter__(self) -> "Services":
        self.batcher.start()
        await self.commands.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.batcher.stop()


@asynccontextmanager
async def opened(kind: str, folder: Path) -> AsyncIterator[WriteStore]:
    """A fresh store of this kind."""
    write_store: WriteStore = MemoryWriteStore() if kind == "memory" else SqliteWriteStore(folder / "log.db")
    try:
        yield write_store
    finally:
        await write_store.close()


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


class YieldingStore:
    """A store whose every answer lets others go first, a random number of times, as one across a network would."""

    def __init__(self, write_store: WriteStore, random: Random) -> None:
        self._write_store = write_store
        self._random = random
        self.identity = write_store.identity
        self.problem: str | None = None

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        await self._yield()
        outcomes = await self._write_store.append(batch)
        await self._yield()
        return outcomes

    async def newer(self, *args: object) -> object:
        await self._yield()
        found = await self._write_store.newer(*args)  # type: ignore[arg-type]
        await self._yield()
        return found

    async def rows(self, space: str, keys: Sequence[str] | None = None, limit: int | None = None) -> object:
        await self._yield()
        found = await self._write_store.rows(space, keys, limit)
        await self._yield()
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._write_store, name)

    async def _yield(self) -> None:
        for _ in range(self._random.choice((0, 0, 1, 3))):
            await asyncio.sleep(0)

"""Commands in turn where reads, commits and other nodes overlap: no state stays wrong, and no answer was never true."""

import asyncio
import gc
from typing import Annotated

import msgspec
import pytest

from tests.command_service.held_store_helpers import HeldStore, ticks
from tests.command_service.service_helpers import Services
from tests.command_service.turn_probe import TURNS, Take, check_turn_rejection
from twofold import DecisionModel, Module, Projection, Rejected, Tag
from twofold.command_service.inline_projections import InlineWrites
from twofold.domain.event_query import ALL_EVENTS
from twofold.write_store.memory import MemoryWriteStore

pytestmark = pytest.mark.timeout(60)

DoorId = Annotated[str, Tag("door")]
KeyId = Annotated[str, Tag("key")]


class Opened(msgspec.Struct, frozen=True):
    door: DoorId


class Closed(msgspec.Struct, frozen=True):
    door: DoorId


class Noted(msgspec.Struct, frozen=True):
    door: DoorId


class Lost(msgspec.Struct, frozen=True):
    key: KeyId


class Entered(msgspec.Struct, frozen=True):
    door: DoorId


class Toured(msgspec.Struct, frozen=True):
    doors: list[DoorId]


class Door(msgspec.Struct, frozen=True):
    """Its two states are constants: an event can lead back to the same object."""

    open: bool = False

    def evolve(self, event: Opened | Closed | Noted) -> "Door":
        if isinstance(event, Noted):
            return self
        return OPEN if isinstance(event, Opened) else SHUT


OPEN, SHUT = Door(True), Door(False)


class Key(msgspec.Struct, frozen=True):
    lost: bool = False

    def evolve(self, event: Lost) -> "Key":
        return Key(True)


class Open(msgspec.Struct, frozen=True):
    door: DoorId


class Close(msgspec.Struct, frozen=True):
    door: DoorId


class Note(msgspec.Struct, frozen=True):
    door: DoorId


class Slam(msgspec.Struct, frozen=True):
    door: DoorId


class Unlock(msgspec.Struct, frozen=True):
    door: DoorId
    key: KeyId


class Lose(msgspec.Struct, frozen=True):
    key: KeyId


class Enter(msgspec.Struct, frozen=True):
    door: DoorId


class Tour(msgspec.Struct, frozen=True):
    doors: list[DoorId]


def open_door(command: Open, door: Door) -> Opened:
    if door.open:
        raise Rejected("open", "is open")
    return Opened(command.door)


def close(command: Close, door: Door) -> Closed:
    if not door.open:
        raise Rejected("shut", "is shut")
    return Closed(command.door)


def note(command: Note) -> Noted:
    return Noted(command.door)


def slam(command: Slam) -> Closed:
    return Closed(command.door)


def unlock(command: Unlock, key: Key) -> Opened:
    if key.lost:
        raise Rejected("lost", "is lost")
    return Opened(command.door)


def lose(command: Lose) -> Lost:
    return Lost(command.key)


def enter(command: Enter, door: Door) -> Entered:
    if not door.open:
        raise Rejected("shut", "is shut")
    return Entered(command.door)


def tour(command: Tour) -> Toured:
    return Toured(command.doors)


class Visits(msgspec.Struct, frozen=True):
    count: int


def count_visits(row: Visits | None, event: Entered | Toured) -> Visits:
    return Visits((row.count if row else 0) + 1)


DOORS = Module(
    "doors",
    events=[Opened, Closed, Noted, Lost, Entered, Toured],
    models=[DecisionModel(Door, by=DoorId), DecisionModel(Key, by=KeyId)],
    decisions=[open_door, close, note, slam, unlock, lose, enter, tour],
    projections=[Projection("visits", count_visits, key=DoorId, lifecycle="inline")],
)


async def answer(service: Services, command: object, command_id: str) -> str:
    try:
        await service.handle(command, command_id)
    except Rejected as error:
        return error.code
    return "written"


async def test_a_rejection_holds_at_one_moment_also_where_its_folds_were_read_at_different_ones() -> None:
    log = MemoryWriteStore()
    held = HeldStore(log)
    async with Services(held, TURNS) as service, Services(log, TURNS) as other:
        await service.handle(Take(["a"], "x"), "seed")
        held.after[held.appends + 1] = asyncio.Event()
        own = asyncio.create_task(service.handle(Take(["a"], "x"), "own"))
        await ticks()
        await other.handle(Take(["a"], "x"), "foreign-a")
        await other.handle(Take(["b"], "x"), "foreign-b")
        both = asyncio.create_task(service.handle(Take(["a", "b"], "x", 1), "both"))
        await ticks()
        held.after[held.appends].set()
        await own
        try:
            await both
        except Rejected as rejected:
            await check_turn_rejection(log, service.codec, rejected, 0)


async def test_a_state_that_comes_back_is_not_taken_for_one_that_saw_nothing() -> None:
    log = MemoryWriteStore()
    held = HeldStore(log)
    async with Services(held, DOORS) as service:
        await service.handle(Open("d"), "1")
        number = held.appends
        held.before[number + 1], held.after[number + 2] = asyncio.Event(), asyncio.Event()
        written = asyncio.create_task(answer(service, Open("x"), "x"))
        await ticks()
        held.reads.clear()
        tasks = []
        for n, command in enumerate((Open("d"), Close("d"), Open("d")), 2):
            tasks.append(asyncio.create_task(answer(service, command, str(n))))
            await ticks()
        held.before[number + 1].set()
        await ticks()
        held.reads.set()
        await ticks()
        held.after[number + 2].set()
        assert await asyncio.gather(written, *tasks) == ["written", "open", "written", "written"]
        assert await answer(service, Close("d"), "5") == "written", "the door is open"
        assert await answer(service, Close("d"), "6") == "shut"


async def test_a_command_that_is_rejected_again_after_others_wrote_is_answered() -> None:
    log = MemoryWriteStore()
    held = HeldStore(log)
    async with Services(held, DOORS) as service, Services(log, DOORS) as other:
        await service.handle(Open("d"), "1")
        held.after[held.appends + 1] = asyncio.Event()
        held.reads.clear()
        first = asyncio.create_task(answer(service, Open("d"), "2"))
        await ticks()
        noted = asyncio.create_task(answer(service, Note("d"), "3"))
        await ticks()
        second = asyncio.create_task(answer(service, Open("d"), "4"))
        await ticks()
        held.reads.set()
        await ticks()
        held.after[held.appends].set()
        assert await asyncio.gather(first, noted, second) == ["open", "written", "open"]
        assert await answer(other, Open("y"), "5") == "written"
        assert await answer(service, Open("z"), "6") == "written"
        # If it never answered, it would not let the loop end this wait: the timeout of the test would.
        assert await answer(service, Open("d"), "7") == "open"


async def test_a_decision_has_seen_what_came_while_its_inline_row_was_read() -> None:
    log = MemoryWriteStore()
    held = HeldStore(log)
    async with Services(held, DOORS) as service, Services(log, DOORS) as other:
        await service.handle(Unlock("d", "k"), "1")
        assert [await answer(service, Enter("d"), "2"), await answer(service, Unlock("e", "k"), "3")] == ["written"] * 2
        service.inline._cached.clear()
        number = held.appends
        held.before[number + 1] = asyncio.Event()
        tasks = [asyncio.create_task(answer(service, Unlock("x", "k2"), "x"))]
        await ticks()
        held.row_reads.clear()
        for n, command in enumerate((Enter("d"), Slam("d"), Unlock("d", "k")), 4):
            tasks.append(asyncio.create_task(answer(service, command, str(n))))
            await ticks()
        held.row_reads.set()
        await ticks()
        await other.handle(Lose("k"), "lose")
        held.before[number + 1].set()
        await asyncio.gather(*tasks)
        is_open = False
        for recorded in (await log.read(ALL_EVENTS)).events:
            event = service.codec.decode(recorded)
            assert is_open or not (isinstance(event, Entered) and event.door == "d"), "nobody enters a closed door"
            if isinstance(event, Opened | Closed) and event.door == "d":
                is_open = isinstance(event, Opened)


async def test_inline_rows_that_are_stored_hold_no_later_ones_in_memory() -> None:
    async with Services(MemoryWriteStore(), DOORS) as service:
        await service.handle(Tour(["often", "once"]), "first")
        for n in range(300):
            await service.handle(Tour(["often"]), f"tour-{n}")
        gc.collect()
        assert sum(type(each) is InlineWrites for each in gc.get_objects()) < 50

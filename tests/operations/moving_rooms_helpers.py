"""The rooms whose log is moved by tests: an app with a read model and a policy that also sends later."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from msgspec import Struct

from twofold import App, DecisionModel, Later, Module, Policy, Projection, Settings, Tag, View
from twofold.app import Status
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.operations.move import MoveResult, move
from twofold.stores import open_write_store
from twofold.world import RealWorld
from twofold.write_store.port import WriteStore

Room = Annotated[str, Tag("room")]


class Book(Struct, frozen=True):
    room: Room


class Free(Struct, frozen=True):
    room: Room


class Booked(Struct, frozen=True):
    room: Room


class Freed(Struct, frozen=True):
    room: Room


class Bookings(Struct, frozen=True):
    count: int = 0

    def evolve(self, event: Booked | Freed) -> "Bookings":
        return Bookings(self.count + 1)


def book(command: Book, bookings: Bookings) -> Booked:
    return Booked(command.room)


def free(command: Free, bookings: Bookings) -> Freed:
    return Freed(command.room)


class Count(Struct, frozen=True):
    room: str
    events: int


def count(row: Count | None, event: Booked | Freed) -> Count:
    return Count(event.room, (row.events if row else 0) + 1)


class CountOf(Struct, frozen=True):
    room: str


async def count_of(query: CountOf, counts: View[Count]) -> Count | None:
    return await counts.get(query.room)


class Tomorrow(RealWorld):
    def now(self) -> datetime:
        return super().now() + timedelta(days=1)


def rooms(reacted: list[str]) -> Module:
    async def free_later(event: Booked) -> Later:
        reacted.append(event.room)
        return Later(Free(event.room), timedelta(hours=1))

    return Module(
        "rooms",
        events=[Booked, Freed],
        models=[DecisionModel(Bookings, by=Room)],
        decisions=[book, free],
        projections=[Projection("counts", count, key=Room)],
        policies=[Policy("free-later", free_later)],
        queries=[count_of],
    )


async def opened(url: str) -> WriteStore:
    return await open_write_store(url, Settings(), RealWorld())


async def until(app: App, reached: Callable[[Status], bool]) -> None:
    """Look at the app's status until it is as wanted: followers work on their own time."""
    async with asyncio.timeout(30):
        while not reached(await app.status()):
            await app.world.sleep(0.01)


async def moved(source: str, target: str) -> MoveResult:
    return await move(source, target, RealWorld())


async def events_of(url: str) -> Sequence[RecordedEvent]:
    write_store = await open_write_store(url, Settings(), RealWorld(), read_only=True)
    found = await write_store.read(ALL_EVENTS)
    await write_store.close()
    return found.events


async def filled(folder: Path) -> str:
    url = f"sqlite:///{folder}/log.db"
    async with App(rooms([]), write_store=url, read_store="memory:") as app:
        for n in range(5):
            await app.send(Book(f"r{n}"))
    return url

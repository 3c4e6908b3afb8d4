"""An event type gets a new tag: the app does not start until the old events are found by it, and then they are."""

from pathlib import Path
from typing import Annotated

import pytest
from msgspec import Struct

from twofold import (
    App,
    AppendCondition,
    Conflict,
    DecisionModel,
    Event,
    EventQuery,
    Metadata,
    Module,
    QueryItem,
    Rejected,
    Settings,
    Tag,
    WiringError,
)
from twofold.domain.events import NewEvent
from twofold.operations.reindex import reindex
from twofold.stores import open_write_store
from twofold.world import RealWorld
from twofold.write_store.inventory import check_log
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Reindexable, WriteStore

DeskId = Annotated[str, Tag("desk")]
Guest = Annotated[str, Tag("guest")]
_WORLD = RealWorld()
_BY = Metadata(1, "c", "c")


class BookDesk(Struct, frozen=True):
    desk: DeskId
    guest: Guest


class DeskBooked(Struct, frozen=True):
    """As it was first: found by its desk alone."""

    desk: DeskId
    guest: str


class DeskBookedByGuest(Struct, frozen=True):
    """As it is now: found by its guest too."""

    desk: DeskId
    guest: Guest


class Desk(Struct, frozen=True):
    booked: bool = False

    def evolve(self, event: DeskBooked) -> "Desk":
        return Desk(True)


class Guesthood(Struct, frozen=True):
    desks: int = 0

    def evolve(self, event: DeskBookedByGuest) -> "Guesthood":
        return Guesthood(self.desks + 1)


def book_desk(command: BookDesk, desk: Desk) -> DeskBooked | None:
    return None if desk.booked else DeskBooked(command.desk, command.guest)


def book_one_desk(command: BookDesk, guest: Guesthood) -> DeskBookedByGuest | None:
    if guest.desks:
        raise Rejected("one-desk-each")
    return DeskBookedByGuest(command.desk, command.guest)


def old_app(write_store: str) -> App:
    models = [DecisionModel(Desk, by=DeskId)]
    desks = Module("desks", events=[Event(DeskBooked, name="desk-booked")], models=models, decisions=[book_desk])
    return App(desks, write_store=write_store, read_store="memory:")


def new_app(write_store: str) -> App:
    events = [Event(DeskBookedByGuest, name="desk-booked")]
    models = [DecisionModel(Guesthood, by=Guest)]
    return App(
        Module("desks", events=events, models=models, decisions=[book_one_desk]),
        write_store=write_store,
        read_store="memory:",
    )


async def booked(folder: Path, bookings: int) -> str:
    url = f"sqlite:///{folder}/log.db"
    async with old_app(url) as app:
        for n in range(bookings):
            await app.send(BookDesk(f"d{n}", f"guest-{n}"))
    return url


async def opened(app: App) -> WriteStore:
    return await open_write_store(app.settings.write_store, app.settings, app.world)


async def test_a_new_tag_keeps_the_app_from_starting_until_old_events_are_found_by_it(tmp_path: Path) -> None:
    app = new_app(await booked(tmp_path, 3))
    with pytest.raises(WiringError, match=r"has the new tag 'guest'.*`twofold reindex`"):
        await app.start()

    write_store = await opened(app)
    heard: list[tuple[int, int]] = []
    done = await reindex(app, write_store, lambda position, end: heard.append((position, end)))
    await write_store.close()
    assert (done.types, done.looked_at, done.retagged) == ({"desk-booked": ["guest"]}, 3, 3)
    assert heard[-1] == (3, 3)

    async with app:
        with pytest.raises(Rejected, match="one-desk-each"):
            await app.send(BookDesk("d9", "guest-1"))
        await app.send(BookDesk("d9", "guest-new"))
        page = await app.log(EventQuery((QueryItem(("desk-booked",), ("guest:guest-1",)),)))
        assert [(event.position, event.tags) for event in page.events] == [(2, ("desk:d1", "guest:guest-1"))]


async def test_what_is_done_already_is_not_done_again(tmp_path: Path) -> None:
    app = new_app(await booked(tmp_path, 2))
    write_store = await opened(app)
    assert (await reindex(app, write_store)).retagged == 2
    assert await reindex(app, write_store) == await reindex(app, write_store)
    assert (await reindex(app, write_store)).types == {}
    await write_store.close()


class BrokenOff(Exception):
    """Stands for whatever ends a reindexing half-way."""


async def test_broken_off_half_way_the_app_does_not_start_and_the_rest_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twofold.operations.reindex.PAGE", 2)
    app = new_app(await booked(tmp_path, 5))

    def break_off(position: int, end: int) -> None:
        raise BrokenOff

    write_store = await opened(app)
    with pytest.raises(BrokenOff):
        await reindex(app, write_store, break_off)
    await write_store.close()
    with pytest.raises(WiringError, match="twofold reindex"):
        await app.start()

    write_store = await opened(app)
    done = await reindex(app, write_store)
    assert (done.looked_at, done.retagged) == (5, 3)
    await check_log(write_store, app.wiring)
    await write_store.close()


async def test_an_event_that_cannot_be_tagged_is_named_with_the_cure(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    async with old_app(url) as app:
        await app.send(BookDesk("d1", "ann"))
        await app.send(BookDesk("d2", ""))
    write_store = await opened(new_app(url))
    with pytest.raises(WiringError, match=r"'desk-booked' event at position 2 cannot be tagged.*upcaster"):
        await reindex(new_app(url), write_store)
    await write_store.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_store_adds_tags_to_envelope_and_index_and_takes_none_away(tmp_path: Path, kind: str) -> None:
    memory = MemoryWriteStore()
    write_store = (
        memory if kind == "memory" else await open_write_store(f"sqlite:///{tmp_path}/l.db", Settings(), _WORLD)
    )
    assert isinstance(write_store, Reindexable)
    new = [NewEvent(f"e{n}", "a", 1, ("k:1", "n:1"), b"{}") for n in range(4)]
    await write_store.append([Append(_BY, events=tuple(new))])
    await write_store.retag({2: ["m:1"], 4: ["a:1", "m:1", "k:1"]})
    await write_store.retag({4: ["m:1"]})

    async def found(*tags: str) -> list[tuple[int, tuple[str, ...]]]:
        return [(e.position, e.tags) for e in (await write_store.read(EventQuery((QueryItem((), tags),)))).events]

    assert await found("m:1") == [(2, ("k:1", "m:1", "n:1")), (4, ("a:1", "k:1", "m:1", "n:1"))]
    assert await found("m:1", "a:1") == [(4, ("a:1", "k:1", "m:1", "n:1"))]
    assert [position for position, _ in await found("k:1")] == [1, 2, 3, 4]

    with pytest.raises(LookupError, match="no event at 5"):
        await write_store.retag({1: ["z:1"], 5: ["z:1"]})
    assert await found("z:1") == []
    seen_by_tag = AppendCondition(EventQuery((QueryItem(("a",), ("m:1",)),)), after=3)
    (outcome,) = await write_store.append([Append(_BY, events=(new[0],), conditions=(seen_by_tag,))])
    assert isinstance(outcome, Conflict)
    await write_store.close()

"""A command id stands for one request and one effect, however often and however closely together it is sent."""

import asyncio
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from tests.command_service.boundary_probe import PutByThing
from tests.command_service.service_helpers import Services, YieldingStore, opened
from tests.write_store.disk_helpers import faulty_disk
from twofold.domain.actor import Actor
from twofold.domain.decision import Context, DecisionModel
from twofold.domain.envelope import Origin
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Module
from twofold.domain.tags import Tag
from twofold.errors import CommandIdReused, InvalidMessage, Rejected, Unavailable, UnknownMessage
from twofold.testing import FrozenWorld
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.sqlite import SqliteWriteStore

SeatId = Annotated[str, Tag("seat")]


class Take(msgspec.Struct, frozen=True):
    seat: SeatId
    who: str
    price: int = 0


class Taken(msgspec.Struct, frozen=True):
    seat: SeatId
    who: str
    price: int
    ids: list[str]


class Seat(msgspec.Struct, frozen=True):
    owner: str | None = None

    def evolve(self, event: Taken) -> "Seat":
        return Seat(event.who)


contexts: list[list[str]] = []


def take(command: Take, seat: Seat, context: Context) -> Taken | None:
    ids = [context.new_id(), context.new_id()]
    contexts.append(ids)
    if seat.owner == "nobody":
        return None
    if seat.owner is not None:
        raise Rejected("taken", seat.owner)
    return Taken(command.seat, command.who, command.price, ids)


class Claim(msgspec.Struct, frozen=True):
    seat: SeatId
    who: str


def claim(command: Claim, seat: Seat) -> Taken:
    if seat.owner is not None:
        raise InvalidMessage("Choose a free seat.", field="seat")
    return Taken(command.seat, command.who, 0, [])


class Nothing(msgspec.Struct, frozen=True):
    seat: SeatId


def do_nothing(command: Nothing, seat: Seat) -> None:
    return None


prices = iter(range(1_000_000))


async def ask_the_price(command: Take) -> Take:
    await asyncio.sleep(0)
    return msgspec.structs.replace(command, price=next(prices))


SEATS = Module(
    "seats",
    events=[Taken],
    models=[DecisionModel(Seat, by=SeatId)],
    decisions=[take, claim, do_nothing],
    prepare=[ask_the_price],
)


async def ids_in(services: Services) -> list[str]:
    return [event.id for event in (await services.write_store.read(ALL_EVENTS)).events]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_repeat_returns_the_first_receipt_though_its_decision_would_now_be_rejected(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path) as write_store, Services(write_store, SEATS) as services:
        first = await services.handle(Take("1a", "ann"), "c")
        assert (first.position, first.count, first.repeated) == (1, 1, False)
        await services.handle(Take("1b", "bob"), "d")
        with pytest.raises(Rejected, match="taken"):
            await services.handle(Take("1a", "ann"), "another id")
        again = await services.handle(Take("1a", "ann"), "c")
        assert (again.position, again.count, again.repeated) == (1, 1, True)
        async with Services(write_store, SEATS) as restarted:
            assert await restarted.handle(Take("1a", "ann"), "c") == again
        assert await ids_in(services) == ["c.0", "d.0"]


async def test_a_repeat_returns_the_first_receipt_though_its_decision_would_now_refuse_the_message() -> None:
    async with Services(MemoryWriteStore(), SEATS) as services:
        first = await services.handle(Claim("1a", "ann"), "c")
        with pytest.raises(InvalidMessage, match="free seat"):
            await services.handle(Claim("1a", "bob"), "another id")
        again = await services.handle(Claim("1a", "ann"), "c")
        assert (again.position, again.count, again.repeated) == (first.position, first.count, True)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_one_command_sent_many_times_at_once_takes_effect_once(kind: str, tmp_path: Path) -> None:
    async with (
        opened(kind, tmp_path) as write_store,
        Services(write_store, SEATS) as one,
        Services(write_store, SEATS) as other,
    ):
        sent = [service.handle(Take("1a", "ann"), "c") for service in (one, other) * 16]
        written = await asyncio.gather(*sent)
        assert sorted(each.repeated for each in written) == [False] + [True] * 31
        assert {(each.position, each.count) for each in written} == {(1, 1)}
        assert await ids_in(one) == ["c.0"]


async def test_another_request_under_a_known_id_is_refused_whatever_its_decision_says() -> None:
    async with Services(MemoryWriteStore(), SEATS) as services:
        await services.handle(Take("1a", "ann"), "c")
        for other in (Take("1a", "bob"), Take("1b", "ann"), Nothing("1a")):
            with pytest.raises(CommandIdReused):
                await services.handle(other, "c")
        assert await ids_in(services) == ["c.0"]


async def test_two_requests_under_one_id_in_one_batch_leave_one_winner() -> None:
    async with Services(MemoryWriteStore(), SEATS) as services:
        sent = [services.handle(Take(f"{n}", "ann"), "c") for n in range(8)]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        assert sum(isinstance(outcome, CommandIdReused) for outcome in outcomes) == 7
        assert await ids_in(services) == ["c.0"]


async def test_a_command_that_changed_nothing_is_remembered_too() -> None:
    async with Services(MemoryWriteStore(), SEATS) as services:
        await services.handle(Take("1a", "ann"), "first")
        nothing = await services.handle(Nothing("1a"), "n")
        assert (nothing.count, nothing.position, nothing.repeated) == (0, 1, False)
        await services.handle(Take("1b", "ann"), "second")
        again = await services.handle(Nothing("1a"), "n")
        assert (again.count, again.position, again.repeated) == (0, 1, True)
        with pytest.raises(CommandIdReused):
            await services.handle(Nothing("1b"), "n")


async def test_a_rejected_command_is_not_remembered_and_may_be_sent_again() -> None:
    async with Services(MemoryWriteStore(), SEATS) as services:
        await services.handle(Take("1a", "ann"), "a")
        with pytest.raises(Rejected):
            await services.handle(Take("1a", "bob"), "b")
        await services.handle(Take("1c", "bob"), "b")
        assert await ids_in(services) == ["a.0", "b.0"]


async def test_the_request_is_hashed_before_it_is_prepared() -> None:
    """The price asked for differs each time, and yet it is the same request."""
    async with Services(MemoryWriteStore(), SEATS) as services:
        await services.handle(Take("1a", "ann"), "c")
        assert (await services.handle(Take("1a", "ann"), "c")).repeated
        with pytest.raises(CommandIdReused):
            await services.handle(Take("1a", "ann", price=7), "c")
        (event,) = (await services.write_store.read(ALL_EVENTS)).events
        assert services.codec.decode(event).price == services.codec.decode(event).price >= 0


async def test_ids_a_decision_asks_for_are_the_same_each_time_it_is_decided() -> None:
    contexts.clear()
    write_store = MemoryWriteStore()
    async with Services(write_store, SEATS) as first, Services(write_store, SEATS) as second:
        await first.handle(Take("1a", "ann"), "a")
        with pytest.raises(Rejected):
            # Its own cache has never seen the seat; the conflict or the look at the log makes it decide again.
            await second.handle(Take("1a", "bob"), "b")
        await asyncio.gather(
            first.handle(Take("2a", "ann"), "c"), second.handle(Take("2a", "bob"), "d"), return_exceptions=True
        )
    made: dict[str, list[str]] = {}
    for ids in contexts:
        assert len(set(ids)) == 2
        assert made.setdefault(ids[0], ids) == ids
    assert len(contexts) > len(made), "no decision was made twice"


async def test_metadata_says_when_who_and_what_it_follows_from() -> None:
    world = FrozenWorld()
    async with Services(MemoryWriteStore(), SEATS, world=world) as services:
        sent = services.handle(Take("1a", "ann"), "c", Origin(Actor("ann"), "k", "e.0"))
        await sent
        await services.handle(Take("1b", "ann"), "d")
        first, second = (await services.write_store.read(ALL_EVENTS)).events
        assert (first.time, first.actor) == (world.now(), "ann")
        known = first.metadata
        assert (known.command_id, known.correlation_id, known.causation_id) == ("c", "k", "e.0")
        assert (second.metadata.correlation_id, second.metadata.causation_id, second.actor) == ("d", None, None)


async def test_a_command_nobody_decides_is_unknown() -> None:
    async with Services(MemoryWriteStore(), SEATS) as services:
        with pytest.raises(UnknownMessage, match="PutByThing"):
            await services.handle(PutByThing("t", "b"), "c")


async def test_what_waits_together_shares_a_sync(tmp_path: Path) -> None:
    with faulty_disk() as disk:
        write_store = SqliteWriteStore(tmp_path / "log.db", vfs=disk.name)
        async with Services(write_store, SEATS) as services:
            before = disk.done["sync", "wal"]
            for start in range(0, 320, 32):
                await asyncio.gather(*(services.handle(Take(f"{start + n}", "ann"), f"{start + n}") for n in range(32)))
            syncs = disk.done["sync", "wal"] - before
            assert 10 <= syncs <= 40, f"320 commands, 32 at a time, took {syncs} syncs"
            assert len(await ids_in(services)) == 320
        await write_store.close()


async def test_beyond_the_queue_limit_commands_are_told_to_come_back() -> None:
    class Stuck(YieldingStore):
        """A store that takes its time."""

        def __init__(self) -> None:
            self.go = asyncio.Event()
            self.go.set()
            self.write_store = MemoryWriteStore()
            self.identity, self.problem = self.write_store.identity, None

        async def append(self, batch):  # type: ignore[no-untyped-def]
            await self.go.wait()
            return await self.write_store.append(batch)

        async def newer(self, *args):  # type: ignore[no-untyped-def]
            return await self.write_store.newer(*args)

        async def rows(self, *args):  # type: ignore[no-untyped-def]
            return await self.write_store.rows(*args)

    stuck = Stuck()
    async with Services(stuck, SEATS, queue=4) as services:  # type: ignore[arg-type]
        stuck.go.clear()
        first = asyncio.create_task(services.handle(Take("first", "ann"), "first"))
        await FrozenWorld().settle()
        waiting = [asyncio.create_task(services.handle(Take(f"{n}", "ann"), f"{n}")) for n in range(4)]
        await FrozenWorld().settle()
        with pytest.raises(Unavailable, match="4 commands are waiting"):
            await services.handle(Take("too many", "ann"), "x")
        stuck.go.set()
        assert len({each.position for each in await asyncio.gather(first, *waiting)}) == 5
        assert (await services.handle(Take("too many", "ann"), "x")).position == 6


async def test_a_stopped_service_writes_what_was_queued_and_takes_nothing_more() -> None:
    services = Services(MemoryWriteStore(), SEATS)
    async with services:
        sent = [asyncio.create_task(services.handle(Take(f"{n}", "ann"), f"{n}")) for n in range(40)]
        await FrozenWorld().settle()
    assert sorted(each.position for each in await asyncio.gather(*sent)) == list(range(1, 41))
    with pytest.raises(Unavailable, match="stopping"):
        await services.handle(Take("late", "ann"), "late")

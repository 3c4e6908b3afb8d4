"""What one caller sends, or one decision gets wrong, stays there; and a repeat always gets its receipt."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from tests.command_service.boundary_probe import Mark
from tests.command_service.service_helpers import Services, opened
from twofold.domain.decision import DecisionModel
from twofold.domain.envelope import Origin
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Module
from twofold.domain.tags import Tag
from twofold.errors import FunctionFailed, InvalidMessage, Rejected, Unavailable
from twofold.testing import FrozenWorld
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome

AccountId = Annotated[str, Tag("account")]
BookId = Annotated[str, Tag("book")]
Amount = Annotated[int, msgspec.Meta(ge=0)]


class Booked(msgspec.Struct, frozen=True):
    account: AccountId
    book: BookId
    amount: Amount = 0
    lines: list[int] = []


class Account(msgspec.Struct, frozen=True):
    entries: tuple[list[int], ...] = ()

    def evolve(self, event: Booked) -> "Account":
        return Account((*self.entries, event.lines))


class Book(msgspec.Struct, frozen=True):
    entries: int = 0

    def evolve(self, event: Booked) -> "Book":
        return Book(self.entries + 1)


class Enter(msgspec.Struct, frozen=True):
    account: AccountId
    book: BookId
    amount: int = 0
    lines: list[int] = []


class Look(msgspec.Struct, frozen=True):
    book: BookId


class Show(msgspec.Struct, frozen=True):
    account: AccountId


def enter(command: Enter, account: Account, book: Book) -> Booked:
    if len(account.entries) != book.entries:
        raise AssertionError(f"the account has {len(account.entries)} entries, the book {book.entries}")
    return Booked(command.account, command.book, command.amount, command.lines)


def look(command: Look, book: Book) -> None:
    raise Rejected("entries", str(book.entries))


def show(command: Show, account: Account) -> None:
    raise Rejected("lines", str(account.entries))


BOOKS = Module(
    "books",
    events=[Booked],
    models=[DecisionModel(Account, by=AccountId), DecisionModel(Book, by=BookId)],
    decisions=[enter, look, show],
)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize(
    ("command_id", "others"),
    [
        ("\ud800", {}),
        ("a\0b", {}),
        ("x" * 257, {}),
        ("c", {"correlation_id": "\ud800"}),
        ("c", {"causation_id": "\0"}),
    ],
)
async def test_text_no_store_can_keep_is_refused_to_its_sender_and_harms_nobody_in_the_same_commit(
    kind: str, command_id: str, others: dict[str, Any], tmp_path: Path
) -> None:
    async with opened(kind, tmp_path) as write_store, Services(write_store) as services:
        sent = [services.handle(Mark("t", "b"), f"good-{n}") for n in range(5)]
        *good, bad = await asyncio.gather(
            *sent, services.handle(Mark("t", "b"), command_id, Origin(**others)), return_exceptions=True
        )
        assert isinstance(bad, InvalidMessage) and bad.field == next(iter(others), "command_id")
        assert [getattr(each, "position", each) for each in good] == [1, 2, 3, 4, 5]


async def test_a_decision_that_fails_on_states_of_different_moments_is_made_again_on_the_newest() -> None:
    write_store = MemoryWriteStore()
    async with Services(write_store, BOOKS) as here, Services(write_store, BOOKS) as elsewhere:
        await here.handle(Enter("a", "b"), "1")
        await elsewhere.handle(Enter("a", "b"), "2")
        with pytest.raises(Rejected, match="entries: 2"):
            await here.handle(Look("b"), "3")  # Now the book is newer here than the account.
        assert (await here.handle(Enter("a", "b"), "4")).position == 3


async def test_a_decision_that_fails_on_the_newest_states_too_fails() -> None:
    async with Services(MemoryWriteStore(), BOOKS) as services:
        await services.handle(Enter("a", "b"), "1")
        with pytest.raises(FunctionFailed, match="AssertionError: the account has 0 entries, the book 1"):
            await services.handle(Enter("other", "b"), "2")


async def test_a_repeat_gets_its_receipt_although_its_preparation_fails_now() -> None:
    accepted = True

    async def ask_the_bank(command: Enter) -> Enter:
        if not accepted:
            raise Rejected("declined")
        return command

    module = Module("books", events=BOOKS.events, models=BOOKS.models, decisions=[enter], prepare=[ask_the_bank])
    async with Services(MemoryWriteStore(), module) as services:
        first = await services.handle(Enter("a", "b"), "1")
        accepted = False
        again = await services.handle(Enter("a", "b"), "1")
        assert (again.count, again.position, again.repeated) == (first.count, first.position, True)
        with pytest.raises(Rejected, match="declined"):
            await services.handle(Enter("a", "b"), "2")


async def test_an_event_that_breaks_its_own_type_is_never_written() -> None:
    async with Services(MemoryWriteStore(), BOOKS, cached=0) as services:
        with pytest.raises(InvalidMessage, match="'booked' does not fit its own type"):
            await services.handle(Enter("a", "b", amount=-1), "1")
        assert (await services.handle(Enter("a", "b", amount=1), "2")).position == 1


async def test_a_list_that_its_sender_changes_later_does_not_change_what_was_folded() -> None:
    async with Services(MemoryWriteStore(), BOOKS) as services:
        lines = [1]
        with pytest.raises(Rejected):
            await services.handle(Show("a"), "cached")
        await services.handle(Enter("a", "b", lines=lines), "1")
        lines.append(2)
        with pytest.raises(Rejected, match=r"lines: \(\[1\],\)"):
            await services.handle(Show("a"), "2")


async def test_nobody_waits_for_a_batcher_whose_stop_was_cancelled() -> None:
    class Stuck(MemoryWriteStore):
        def __init__(self) -> None:
            super().__init__()
            self.asked = asyncio.Event()
            self.stuck = False

        async def append(self, batch: Sequence[Append]) -> list[Outcome]:
            if not self.stuck:
                return await super().append(batch)
            self.asked.set()
            await asyncio.Event().wait()
            raise AssertionError(batch)

    write_store = Stuck()
    services = Services(write_store)
    services.batcher.start()
    await services.commands.start()
    write_store.stuck = True
    under_way = asyncio.create_task(services.handle(Mark("t", "b"), "under way"))
    await write_store.asked.wait()
    queued = asyncio.create_task(services.handle(Mark("t", "b"), "queued"))
    stopping = asyncio.create_task(services.batcher.stop())
    await FrozenWorld().settle()
    assert len(services.batcher._queue) == 1
    stopping.cancel()
    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(under_way, queued, stopping, return_exceptions=True)
    assert [type(each) for each in outcomes] == [Unavailable, Unavailable, asyncio.CancelledError]
    with pytest.raises(Unavailable, match="stopping"):
        await services.batcher.append(Append(metadata=None))  # type: ignore[arg-type]
    assert (await write_store.read(ALL_EVENTS)).head == 0

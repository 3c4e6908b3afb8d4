"""What an inline projection cannot fold or store is not written, and the command that caused it says why."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.command_service.inline_row_helpers import check_rows, stored
from tests.command_service.service_helpers import Services, opened
from tests.sample_domains.bank import (
    INLINE_BALANCES,
    INLINE_BANK,
    INLINE_TILL,
    TILL_FAILS_ON,
    AccountId,
    ChainedBalance,
    Close,
    Deposit,
    Deposited,
    Till,
    bank,
    till,
)
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS
from twofold.domain.projection import Projection
from twofold.errors import FunctionFailed, InvalidMessage, Unavailable
from twofold.write_store.memory import MemoryWriteStore


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_an_event_that_a_fold_does_not_take_is_not_written_and_the_command_says_why(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path) as write_store, Services(write_store, INLINE_BANK) as services:
        await services.handle(Deposit("a", 100), "c-1")
        before = await stored(write_store)
        with pytest.raises(FunctionFailed) as refused:
            await services.handle(Deposit("a", TILL_FAILS_ON), "c-2")
        for said in ("'till'", "Deposited", "'all'", "ValueError: an unlucky number", "nothing is written"):
            assert said in str(refused.value)
        assert (await write_store.read(NO_EVENTS)).head == 1
        assert await stored(write_store) == before
        assert not (await services.handle(Deposit("a", 1), "c-2")).repeated, "the id was not used up"
        assert await check_rows(write_store) == 2


async def test_other_commands_of_its_batch_are_not_touched_by_one_that_a_fold_does_not_take() -> None:
    write_store = MemoryWriteStore()
    async with Services(write_store, INLINE_BANK) as services:
        cents = [100, TILL_FAILS_ON, 102, TILL_FAILS_ON, 104]
        sent = [services.handle(Deposit("a", each), f"{n}") for n, each in enumerate(cents)]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        assert [isinstance(each, FunctionFailed) for each in outcomes] == [each == TILL_FAILS_ON for each in cents]
        assert await check_rows(write_store) == 3


async def test_a_fold_that_fails_on_an_old_row_is_tried_on_the_present_one() -> None:
    def strict(row: ChainedBalance | None, event: Deposited) -> ChainedBalance:
        row = row or ChainedBalance(event.account_id)
        if row.cents + event.cents > 100:
            raise ValueError("too much")
        return ChainedBalance(event.account_id, row.cents + event.cents, row.events + 1)

    module = bank(Projection("strict", strict, key=AccountId, lifecycle="inline"))
    write_store = MemoryWriteStore()
    async with Services(write_store, module) as here, Services(write_store, module) as there:
        await here.handle(Deposit("a", 90), "1")
        await there.handle(Deposit("a", -50), "2")
        assert (await here.handle(Deposit("a", 60), "3")).position == 3
        assert (await stored(write_store, module))["strict"]["a"] == ChainedBalance("a", 100, 3)
        with pytest.raises(FunctionFailed, match="too much"):
            await here.handle(Deposit("a", 1), "4")


async def test_a_repeat_gets_its_receipt_even_where_the_fold_would_not_take_the_event_now() -> None:
    def once(row: Till | None, event: Deposited) -> Till:
        if row is not None:
            raise ValueError("there is one already")
        return Till(event.cents, 1)

    module = bank(Projection("once", once, key=lambda event: "all", lifecycle="inline"))
    write_store = MemoryWriteStore()
    async with Services(write_store, module) as services, Services(write_store, module) as another:
        first = await services.handle(Deposit("a", 5), "c-1")
        for service in (services, another):
            again = await service.handle(Deposit("a", 5), "c-1")
            assert (again.count, again.position, again.repeated) == (first.count, first.position, True)
        with pytest.raises(FunctionFailed, match="there is one already"):
            await services.handle(Deposit("a", 5), "c-2")


def wrong_type(row: ChainedBalance | None, event: Deposited) -> ChainedBalance | None:
    return ChainedBalance(event.account_id, "many")  # type: ignore[arg-type]


def not_finite(row: ChainedBalance | None, event: Deposited) -> ChainedBalance | None:
    return ChainedBalance(event.account_id, float("nan"))  # type: ignore[arg-type]


def no_json(row: ChainedBalance | None, event: Deposited) -> ChainedBalance | None:
    return ChainedBalance(event.account_id, object())  # type: ignore[arg-type]


@pytest.mark.parametrize("fold", [wrong_type, not_finite, no_json])
async def test_a_row_that_could_not_be_read_back_is_not_written(fold: Any) -> None:
    module = bank(INLINE_TILL, Projection("broken", fold, key=AccountId, lifecycle="inline"))
    write_store = MemoryWriteStore()
    async with Services(write_store, module) as services:
        with pytest.raises(FunctionFailed, match=r"'broken' failed.*its fold fails for a Deposited and the key 'a'"):
            await services.handle(Deposit("a", 1), "c-1")
        assert (await write_store.read(NO_EVENTS)).head == 0
        # The row of the other projection had been folded already, and must not be remembered.
        assert services.inline._cached == {}


def failing_key(event: Deposited) -> str:
    raise LookupError("no key")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (failing_key, "its `key` fails for a Deposited (LookupError: no key)"),
        (lambda event: "", "a row key must have 1 to 1024 characters"),
        (lambda event: "a\0b", "U+0000"),
        (lambda event: "\ud800", "surrogate"),
    ],
)
async def test_a_key_that_could_not_be_stored_refuses_the_command_alone(key: Any, says: str, tmp_path: Path) -> None:
    module = bank(INLINE_BALANCES, Projection("till", till, key=key, lifecycle="inline"))
    async with opened("sqlite", tmp_path) as write_store, Services(write_store, module) as services:
        refused, taken = await asyncio.gather(
            services.handle(Deposit("a", 1), "c-1"), services.handle(Close("a"), "c-2"), return_exceptions=True
        )
        assert isinstance(refused, FunctionFailed | InvalidMessage)
        assert says in str(refused)
        assert not isinstance(taken, BaseException)
        assert (await write_store.read(NO_EVENTS)).head == 1


async def test_a_row_in_a_shape_its_type_has_no_more_is_said_to_be_so() -> None:
    class Till2(msgspec.Struct, frozen=True):
        euros: int

    def count(row: Till2 | None, event: Deposited) -> Till2:
        return Till2((row.euros if row else 0) + event.cents)

    write_store = MemoryWriteStore()
    async with Services(write_store, bank(INLINE_TILL)) as services:
        await services.handle(Deposit("a", 100), "c-1")
    module = bank(Projection("till", count, key=lambda event: "all", lifecycle="inline"))
    async with Services(write_store, module) as services:
        with pytest.raises(Unavailable, match=r"'all' of 'till' does not fit Till2.*Raise the version"):
            await services.handle(Deposit("a", 100), "c-2")
    assert (await write_store.read(ALL_EVENTS)).head == 1

"""A long boundary is folded in steps: other commands are answered meanwhile, and what they write is seen."""

import asyncio
from pathlib import Path
from typing import Any
from weakref import WeakSet

import msgspec
import pytest

from tests.command_service.long_account_helpers import BANK, pay_in
from tests.command_service.service_helpers import Services, opened
from tests.sample_domains.bank import Deposit, Transfer, Withdraw
from twofold.domain.events import RecordedEvent
from twofold.errors import Rejected
from twofold.write_store.memory import MemoryWriteStore

LONG = 8_000


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_command_on_another_boundary_is_answered_while_a_long_one_is_folded(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store, Services(store, BANK) as services:
        await pay_in(store, "long", LONG)
        await pay_in(store, "short", 3)
        long = asyncio.create_task(services.handle(Withdraw("long", 1), "long"))
        await asyncio.sleep(0)
        await services.handle(Withdraw("short", 1), "short")
        assert not long.done()
        await long


async def test_boundaries_that_are_not_cached_are_read_while_two_long_ones_are_folded() -> None:
    store = MemoryWriteStore()
    for account, deposits in (("long", LONG), ("longer", LONG), ("longest", LONG), ("short", 3)):
        await pay_in(store, account, deposits)
    async with Services(store, BANK) as services:
        names = "long", "longer", "longest"
        long = [asyncio.create_task(services.handle(Withdraw(account, LONG), account)) for account in names]
        for _ in range(6):
            await asyncio.sleep(0)
        await services.handle(Withdraw("short", 3), "short")
        assert not any(task.done() for task in long)
        await asyncio.gather(*long)


async def test_events_that_come_while_a_boundary_is_folded_are_seen() -> None:
    store = MemoryWriteStore()
    await pay_in(store, "long", LONG)
    async with Services(store, BANK) as services, Services(store, BANK) as other:
        long = asyncio.create_task(services.handle(Withdraw("long", LONG + 4), "long"))
        for n in range(4):
            await asyncio.sleep(0)
            await (services if n % 2 else other).handle(Deposit("long", 1), f"{n}")
        assert not long.done()
        await long
        for service in services, other:
            with pytest.raises(Rejected):
                await service.handle(Withdraw("long", 1), "too much")


async def test_long_boundaries_that_wait_for_one_another_are_all_folded_whole() -> None:
    store = MemoryWriteStore()
    accounts = [f"a{n}" for n in range(7)]
    for account in accounts:
        await pay_in(store, account, 2_500)
    async with Services(store, BANK) as services:
        pairs = list(zip(accounts, [*accounts[1:], accounts[0]], strict=True))
        await asyncio.gather(
            *(services.handle(Withdraw(account, 1_000), account) for account in accounts),
            *(services.handle(Transfer(source, target, 1_500), f"{source}-{target}") for source, target in pairs),
            *(services.handle(Deposit(account, 1), f"{account} one more") for account in accounts),
        )
        await asyncio.gather(*(services.handle(Withdraw(account, 1_501), f"{account} rest") for account in accounts))
        for account in accounts:
            with pytest.raises(Rejected):
                await services.handle(Withdraw(account, 1), f"{account} too much")


async def test_callers_that_give_up_leave_the_places_of_their_long_reads_to_others() -> None:
    store = MemoryWriteStore()
    accounts = [f"a{n}" for n in range(8)]
    for account in accounts:
        await pay_in(store, account, 2_500)
    async with Services(store, BANK) as services:
        for turns in range(0, 40, 3):
            lost = [
                asyncio.create_task(services.handle(Withdraw(account, 9_999), f"{account}-{turns}"))
                for account in accounts[:5]
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in lost:
                task.cancel()
            await asyncio.gather(*lost, return_exceptions=True)
            services.folds._cached.clear()
            services.folds._by_tag.clear()
        assert services.folds._reads._reading == 0
        assert services.folds._reads._long._free == 2
        await asyncio.gather(*(services.handle(Withdraw(account, 2_500), account) for account in accounts))


class TrackedEvents(list[RecordedEvent]):
    """The events of a page, of which a test can see whether it is still in memory."""

    __hash__ = object.__hash__  # type: ignore[assignment]


async def test_reads_that_wait_for_other_long_reads_keep_no_page_in_memory() -> None:
    pages: WeakSet[TrackedEvents] = WeakSet()
    most = 0

    class TrackedStore(MemoryWriteStore):
        async def newer(self, *arguments: Any) -> Any:
            nonlocal most
            page, outcome = await super().newer(*arguments)
            events = TrackedEvents(page.events)
            pages.add(events)
            most = max(most, len(pages))
            return msgspec.structs.replace(page, events=events), outcome

    store = TrackedStore()
    accounts = [f"a{n}" for n in range(20)]
    for account in accounts:
        await pay_in(store, account, 1_100)
    async with Services(store, BANK) as services:
        await asyncio.gather(*(services.handle(Withdraw(account, 1_100), account) for account in accounts))
    assert most <= 6


async def test_folding_comes_to_an_end_although_this_process_never_stops_writing() -> None:
    store = MemoryWriteStore()
    await pay_in(store, "long", LONG)
    async with Services(store, BANK) as services:
        long = asyncio.create_task(services.handle(Withdraw("long", LONG), "long"))

        async def deposits(writer: int) -> None:
            n = 0
            while not long.done():
                await services.handle(Deposit("long", 1), f"{writer}-{n}")
                n += 1

        await asyncio.gather(long, *(deposits(writer) for writer in range(8)))
        assert (await long).position > LONG + 8

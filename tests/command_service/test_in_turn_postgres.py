"""Processes that share a log in PostgreSQL decide in turn inside, and check one another by conditions."""

import asyncio
from contextlib import AsyncExitStack
from random import Random

import pytest

from tests.command_service.service_helpers import Services
from tests.command_service.test_in_turn import FailingStore, Life
from tests.command_service.turn_probe import TURNS, TURNS_WITH_ROWS, Invoice, Take, check_turns
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.domain.module import Module
from twofold.write_store.postgres import PostgresWriteStore


async def nodes(
    stack: AsyncExitStack, dsn: str, count: int, module: Module = TURNS, share: float = 0.0, retries: int = 10_000
) -> list[Services]:
    """Services over stores of their own on one log."""
    url = await fresh_log(dsn)
    services: list[Services] = []
    for n in range(count):
        store = await PostgresWriteStore.open(url)
        stack.push_async_callback(store.close)
        faulty = FailingStore(store, Random(n))
        faulty.share = share
        services.append(await stack.enter_async_context(Services(faulty, module, retries=retries)))  # type: ignore[arg-type]
    return services


@pytest.mark.parametrize("module", [TURNS, TURNS_WITH_ROWS], ids=["events alone", "with inline rows"])
@pytest.mark.parametrize("count", [1, 2, 4])
async def test_a_random_life_is_a_serial_history(postgres_newest: Postgres, count: int, module: Module) -> None:
    async with AsyncExitStack() as stack:
        services = await nodes(stack, postgres_newest.dsn, count, module, share=0.1)
        life = Life(services[0].write_store, services, Random(count))
        await asyncio.wait_for(asyncio.gather(*(life.caller(number, 12) for number in range(12))), 100)
        await life.check(services[0].codec)
        assert life.answers["written"] > 20
        assert life.answers["rejected"] > 2
        reservations = sum(service.write_store.reservations for service in services)  # type: ignore[attr-defined]
        assert reservations > 0 or count == 1


async def test_two_hundred_invoices_at_once_get_two_hundred_numbers_in_order(postgres_newest: Postgres) -> None:
    async with AsyncExitStack() as stack:
        (service,) = await nodes(stack, postgres_newest.dsn, 1, retries=0)
        await asyncio.gather(*(service.handle(Invoice(f"b{n}"), f"c{n}") for n in range(200)))
        assert await check_turns(service.write_store, service.codec) == [f"c{n}" for n in range(200)]


async def test_two_processes_on_one_boundary_are_both_answered_and_leave_no_gap(postgres_newest: Postgres) -> None:
    async with AsyncExitStack() as stack:
        first, second = await nodes(stack, postgres_newest.dsn, 2)
        sent = [service.handle(Invoice("b"), f"{n}-{id(service)}") for n in range(60) for service in (first, second)]
        assert len(await asyncio.wait_for(asyncio.gather(*sent), 100)) == 120
        assert len(await check_turns(first.write_store, first.codec)) == 120


async def test_two_processes_on_disjoint_boundaries_refuse_each_other_nothing(postgres_newest: Postgres) -> None:
    async with AsyncExitStack() as stack:
        first, second = await nodes(stack, postgres_newest.dsn, 2, retries=0)

        async def sender(services: Services, thing: str) -> None:
            for n in range(20):
                await services.handle(Take([thing], "b"), f"{thing}-{n}")

        await asyncio.gather(*(sender(first, f"a{n}") for n in range(8)), *(sender(second, f"b{n}") for n in range(8)))
        assert [service.write_store.refused for service in (first, second)] == [0, 0]  # type: ignore[attr-defined]
        # Without this each commit of one loses the cached states of the other.
        assert sum(service.write_store.reads for service in (first, second)) < 60  # type: ignore[attr-defined]
        assert len(await check_turns(first.write_store, first.codec)) == 320

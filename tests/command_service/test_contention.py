"""Nodes that meet on a boundary take turns: each gets on, however far it is from the log, and no caller a Conflict."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from tests.command_service.boundary_probe import RULES, PutByType, check_boundaries
from tests.command_service.service_helpers import Services
from tests.command_service.turn_probe import TURNS, TURNS_WITH_ROWS, BoxId, Invoice, Take, TakeByType, check_turns
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.command_service.contention import Contention
from twofold.domain.decision import DecisionModel
from twofold.domain.event_query import AppendCondition
from twofold.domain.module import Module
from twofold.errors import Conflict, Rejected
from twofold.write_store.port import Append, Appended, Outcome, Slice
from twofold.write_store.postgres import PostgresWriteStore
from twofold.write_store.reserving import DecideReserved

RETRIES = 3


class DistantStore:
    """A store that is `seconds` away: what was decided arrives late. It counts what it wrote with the log reserved."""

    def __init__(self, store: PostgresWriteStore, seconds: float = 0.0) -> None:
        self._store = store
        self._seconds = seconds
        self.reserved: list[int] = []
        self.blind = False
        """Whether what is newer cannot be read while the log is reserved."""

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        await asyncio.sleep(self._seconds)
        return await self._store.append(batch)

    async def append_reserved(self, conditions: Sequence[AppendCondition], decide: DecideReserved) -> list[Outcome]:
        async def noted(page: Slice | None) -> Sequence[Append]:
            batch = await decide(None if self.blind else page)
            self.reserved.append(len(batch))
            return batch

        await asyncio.sleep(self._seconds)
        return await self._store.append_reserved(conditions, noted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


Node = tuple[Services, DistantStore]


@asynccontextmanager
async def node(
    url: str, seconds: float = 0.0, module: Module = TURNS, retries: int = RETRIES, batch: int = 512
) -> AsyncGenerator[Node]:
    store = await PostgresWriteStore.open(url, patience=60.0)
    distant = DistantStore(store, seconds)
    try:
        async with Services(distant, module, retries=retries, batch=batch) as services:  # type: ignore[arg-type]
            yield services, distant
    finally:
        await store.close()


async def busy(services: Services, callers: int, until: Coroutine[Any, Any, object], thing: str = "") -> int:
    """Let so many callers send without a pause until something else is done; how many commands were written."""
    done = asyncio.ensure_future(until)
    written = 0

    async def caller(number: int) -> None:
        nonlocal written
        turn = 0
        while not done.done():
            turn += 1
            command = Take([f"{thing}-{number}-{turn}"], "b") if thing else Invoice("b")
            await services.handle(command, f"{thing}busy-{number}-{turn}")
            written += 1

    try:
        await asyncio.gather(done, *(caller(number) for number in range(callers)))
    finally:
        done.cancel()
    return written


async def invoices(services: Services, name: str, callers: int, each: int) -> None:
    async def caller(number: int) -> None:
        for n in range(each):
            await services.handle(Invoice("b"), f"{name}-{number}-{n}")

    await asyncio.gather(*(caller(number) for number in range(callers)))


async def test_a_distant_node_gets_on_beside_one_that_writes_all_the_time(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    async with node(url) as (near, _), node(url, seconds=0.03) as (far, distant):
        await asyncio.wait_for(busy(near, 8, invoices(far, "far", 4, 5)), 100)
        assert len([size for size in distant.reserved if size]) > 0
        assert len([each for each in await check_turns(far.write_store, far.codec) if each.startswith("far")]) == 20


async def test_without_turns_the_distant_node_would_be_answered_conflicts(
    postgres_newest: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Contention, "note", lambda *_: None)
    url = await fresh_log(postgres_newest.dsn)
    async with node(url, retries=100) as (near, _), node(url, seconds=0.03) as (far, _):
        with pytest.raises(Conflict):
            await asyncio.wait_for(busy(near, 8, invoices(far, "far", 4, 50)), 100)


async def test_a_boundary_that_nobody_else_writes_to_any_more_is_decided_at_once_again(
    postgres_newest: Postgres,
) -> None:
    url = await fresh_log(postgres_newest.dsn)
    async with node(url) as (near, _), node(url, seconds=0.01) as (far, distant):
        await asyncio.wait_for(busy(near, 8, invoices(far, "far", 4, 2)), 100)
        # The others may have written before the first of these, and no more after.
        await invoices(far, "alone", 1, 5)
        before = len(distant.reserved)
        await invoices(far, "again", 4, 5)
        assert len(distant.reserved) == before


async def test_cancelled_callers_in_the_queue_of_a_reservation_hold_up_nobody(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    async with node(url) as (services, _):
        other = await PostgresWriteStore.open(url)
        began, go = asyncio.Event(), asyncio.Event()

        async def nothing(page: Slice | None) -> Sequence[Append]:
            began.set()
            await go.wait()
            return []

        holder = asyncio.create_task(other.append_reserved([], nothing))
        await began.wait()
        await services.folds.load(services.wiring.decisions[Invoice].boundary(Invoice("b")).folds)
        services.batcher.contention.note(services.wiring.decisions[Invoice].boundary(Invoice("b")).folds)
        sent = [asyncio.create_task(services.handle(Invoice("b"), f"c{n}")) for n in range(20)]
        await asyncio.sleep(0)
        for n in (0, 1, 7, 19):
            sent[n].cancel()
        go.set()
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        await holder
        await other.close()
        assert [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Appended)] == [0, 1, 7, 19]
        assert len(await check_turns(services.write_store, services.codec)) == 16
        assert not services.commands._turns._waiting


class SlowInvoice(msgspec.Struct, frozen=True):
    box: BoxId


class Slow(msgspec.Struct, frozen=True):
    box: BoxId


class SlowInvoices(msgspec.Struct, frozen=True):
    count: int = 0

    def evolve(self, event: Slow) -> "SlowInvoices":
        return SlowInvoices(self.count + 1)


def decide_slowly(command: SlowInvoice, invoices: SlowInvoices) -> Slow:
    time.sleep(0.02)
    return Slow(command.box)


SLOW = Module("slow", events=[Slow], models=[DecisionModel(SlowInvoices, by=BoxId)], decisions=[decide_slowly])


async def test_slow_decisions_give_the_log_to_others_in_between(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    async with node(url, module=SLOW) as (services, distant):
        folds = services.wiring.decisions[SlowInvoice].boundary(SlowInvoice("b")).folds
        await services.folds.load(folds)
        services.batcher.contention.note(folds)
        await asyncio.gather(*(services.handle(SlowInvoice("b"), f"c{n}") for n in range(12)))
        # Those that did not get their turn in 50 ms, of 20 ms each, were decided after the lock was given back.
        assert 1 <= distant.reserved[0] <= 3


async def test_callers_of_other_boundaries_do_not_keep_a_contended_one_waiting(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    async with node(url) as (near, _), node(url, seconds=0.01, batch=8) as (far, distant):
        contended = invoices(far, "far", 2, 5)
        others = busy(far, 40, contended, thing="own")
        await asyncio.wait_for(busy(near, 4, others), 100)
        assert max(distant.reserved) <= 8
        written = await check_turns(far.write_store, far.codec)
        assert len([each for each in written if each.startswith("far")]) == 10


@pytest.mark.parametrize("module", [TURNS, TURNS_WITH_ROWS], ids=["events alone", "with inline rows"])
async def test_rejections_and_nothing_to_do_are_answered_in_turn_as_well(
    postgres_newest: Postgres, module: Module
) -> None:
    url = await fresh_log(postgres_newest.dsn)
    answers: list[str] = []
    # A node may be refused twice because of the events, and twice because of the rows.
    async with (
        node(url, module=module, retries=6) as (one, of_one),
        node(url, module=module, retries=6) as (two, of_two),
    ):

        async def caller(services: Services, number: int) -> None:
            for n in range(6):
                try:
                    await services.handle(TakeByType(["t"], "b", n % 4), f"{number}-{id(services)}-{n}")
                    answers.append("written")
                except Rejected:
                    answers.append("rejected")

        for services in (one, two):
            folds = services.wiring.decisions[TakeByType].boundary(TakeByType(["t"], "b")).folds
            await services.folds.load(folds)
            services.batcher.contention.note(folds)
        await asyncio.wait_for(asyncio.gather(*(caller(services, n) for n in range(8) for services in (one, two))), 100)
        assert len(answers) == 96
        assert answers.count("rejected") > 0
        assert of_one.reserved or of_two.reserved
        await check_turns(one.write_store, one.codec)


async def test_models_that_need_positions_are_decided_one_for_each_reservation(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    async with node(url, module=RULES) as (near, _), node(url, module=RULES, seconds=0.01) as (far, distant):
        done = asyncio.gather(*(far.handle(PutByType("t", "b"), f"far-{n}") for n in range(8)))

        async def caller(number: int) -> None:
            turn = 0
            while not done.done():
                turn += 1
                await near.handle(PutByType("t", "b"), f"near-{number}-{turn}")

        await asyncio.wait_for(asyncio.gather(done, *(caller(n) for n in range(3))), 100)
        assert distant.reserved
        assert await check_boundaries(far.write_store, far.codec) > 8


async def test_what_cannot_be_read_under_the_lock_is_read_without_it(postgres_newest: Postgres) -> None:
    url = await fresh_log(postgres_newest.dsn)
    async with node(url) as (other, _), node(url) as (services, distant):
        folds = services.wiring.decisions[Invoice].boundary(Invoice("b")).folds
        await invoices(services, "first", 1, 1)
        await invoices(other, "other", 1, 1)
        services.batcher.contention.note(folds)
        distant.blind = True
        await asyncio.wait_for(invoices(services, "last", 4, 1), 100)
        assert distant.reserved[0] == 0
        assert len(await check_turns(services.write_store, services.codec)) == 6

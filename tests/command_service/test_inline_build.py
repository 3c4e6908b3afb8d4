"""A new inline projection is built from the log before it counts, and from then on no node goes on without it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from tests.command_service.inline_row_helpers import check_rows, deposits, stored
from tests.command_service.service_helpers import Services, YieldingStore, opened
from tests.sample_domains.bank import (
    INLINE_BALANCES,
    INLINE_BANK,
    INLINE_TILL,
    TILL_FAILS_ON,
    Deposit,
    Deposited,
    Till,
    any_command,
    bank,
)
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.command_service import inline_build
from twofold.domain.event_query import NO_EVENTS, EventQuery
from twofold.domain.events import Position
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import Rejected, Unavailable, WiringError
from twofold.write_store.inline_state import read_inline_state, space_of
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import PAGE_BYTES, Append, LogRow, Outcome, Slice, WriteStore
from twofold.write_store.postgres import PostgresWriteStore


def version(number: int) -> Projection:
    """The till, of which each version counts otherwise."""

    def fold(row: Till | None, event: Deposited) -> Till:
        return Till((row.cents if row else 0) + number * event.cents, (row.deposits if row else 0) + 1)

    return Projection("till", fold, key=lambda event: f"{event.cents}", lifecycle="inline", version=number)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline_build, "PAGE", 7)


PLAIN = bank()


async def filled(write_store: WriteStore, module: Module = PLAIN, events: int = 100) -> None:
    """A log with events of all kinds."""
    random = Random(events)
    async with Services(write_store, module) as services:
        while (await write_store.read(NO_EVENTS)).head < events:
            sent = [services.handle(any_command(random), f"{random.random()}") for _ in range(10)]
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
            assert all(isinstance(each, Rejected) for each in outcomes if isinstance(each, BaseException))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_what_is_new_is_built_from_the_whole_log_before_the_first_command(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as write_store:
        await filled(write_store)
        async with Services(write_store, INLINE_BANK) as services:
            assert await check_rows(write_store) >= 100
            await services.handle(Deposit("a", 1), "one more")
            assert await check_rows(write_store) > 100


async def test_before_that_no_command_is_taken() -> None:
    services = Services(MemoryWriteStore(), INLINE_BANK)
    services.batcher.start()
    with pytest.raises(Unavailable, match="still being built"):
        await services.handle(Deposit("a", 1), "1")
    await services.batcher.stop()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
async def test_another_version_is_built_anew_and_the_rows_of_the_other_are_thrown_away(before: int, after: int) -> None:
    write_store = MemoryWriteStore()
    old, new = bank(version(before), INLINE_BALANCES), bank(version(after), INLINE_BALANCES)
    await filled(write_store, old)
    assert len(await write_store.rows(space_of(f"{before}:till"))) > inline_build.PAGE
    async with Services(write_store, new) as services:
        assert await check_rows(write_store, new) >= 100
        assert await write_store.rows(space_of(f"{before}:till")) == {}
        assert set((await read_inline_state(write_store)).built) == {f"{after}:till", "1:balances"}
        await deposits(services, ["a"] * 5)
        assert await check_rows(write_store, new) >= 105
    async with Services(write_store, old):
        assert await check_rows(write_store, old) >= 105


async def test_a_projection_that_is_gone_leaves_nothing_behind() -> None:
    write_store = MemoryWriteStore()
    await filled(write_store, INLINE_BANK)
    async with Services(write_store, bank()) as services:
        assert await write_store.rows("inline:1:till") == await write_store.rows("inline:1:balances") == {}
        noted = await read_inline_state(write_store)
        assert (noted.listed, noted.built) == ({}, {})
        await services.handle(Deposit("a", 1), "1")
    async with Services(write_store, INLINE_BANK):
        await check_rows(write_store)


async def test_a_log_without_inline_projections_has_nothing_noted_in_it() -> None:
    write_store = MemoryWriteStore()
    await filled(write_store)
    assert write_store._rows.keys() == {"secret"}


class Killed(Exception):
    """Not an error of ours: whatever ends a process."""


class Mortal(MemoryWriteStore):
    """A store whose process is killed before or after one of its appends."""

    left: int | None = None
    after = False

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        if self.left is None:
            return await super().append(batch)
        self.left -= 1
        if self.left < 0 and not self.after:
            raise Killed
        outcomes = await super().append(batch)
        if self.left < 0:
            raise Killed
        return outcomes


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_build_that_is_killed_at_any_moment_goes_on_where_it_was(after: bool) -> None:
    write_store = Mortal()
    await filled(write_store, bank(version(1)))
    write_store.after = after
    new = bank(version(2), INLINE_BALANCES)
    kills = 0
    while True:
        # Every life makes one step, or two, whatever the steps are: if what they did were lost, there would be no end.
        assert kills < 100
        write_store.left = 1
        services = Services(write_store, new)
        try:
            await services.commands.start()
        except Killed:
            kills += 1
            continue
        break
    assert kills > 15
    write_store.left = None
    async with Services(write_store, new) as services:
        await check_rows(write_store, new)
        await services.handle(Deposit("a", 1), "1")
        await check_rows(write_store, new)
    assert await write_store.rows("inline:1:till") == {}


async def test_a_build_whose_fold_fails_says_where_and_leaves_others_alone() -> None:
    write_store = MemoryWriteStore()
    async with Services(write_store, bank()) as services:
        for n in range(20):
            await services.handle(Deposit("a", TILL_FAILS_ON if n == 15 else 100), f"{n}")
        with pytest.raises(WiringError) as refused:
            await Services(write_store, INLINE_BANK).commands.start()
        for said in ("'till' cannot be built", "the key 'all'", "position 16", "'deposited'", "ValueError: an unlucky"):
            assert said in str(refused.value)
        assert (await services.handle(Deposit("a", 1), "more")).position == 21
    async with Services(write_store, bank(INLINE_BALANCES)):
        assert await check_rows(write_store, bank(INLINE_BALANCES)) == 21


@pytest.mark.parametrize("seed", range(6))
async def test_nodes_that_start_at_once_build_it_together(seed: int) -> None:
    write_store = MemoryWriteStore()
    await filled(write_store)
    nodes = [Services(YieldingStore(write_store, Random(seed + n)), INLINE_BANK) for n in range(3)]  # type: ignore[arg-type]
    await asyncio.gather(*(node.__aenter__() for node in nodes))
    await check_rows(write_store)
    for n, node in enumerate(nodes):
        await deposits(node, ["a"] * 10, start=n * 10)
    for node in nodes:
        await node.__aexit__()
    await check_rows(write_store)


@pytest.mark.parametrize("seed", range(6))
async def test_a_node_that_does_not_know_a_projection_writes_no_event_past_it(seed: int) -> None:
    write_store = MemoryWriteStore()
    await filled(write_store)
    written = 0

    async def go_on(old: Services) -> None:
        nonlocal written
        while True:
            await old.handle(Deposit(f"a{written % 5}", 100), f"old-{written}")
            written += 1

    old = Services(YieldingStore(write_store, Random(seed)), bank(), retries=50)  # type: ignore[arg-type]
    async with old:
        going_on = asyncio.create_task(go_on(old))
        async with Services(YieldingStore(write_store, Random(-seed)), INLINE_BANK) as new:  # type: ignore[arg-type]
            with pytest.raises(Unavailable, match="start it with the newer code"):
                await going_on
            assert written > 0, "it went on while the projection was built"
            assert old.commands.problem is not None
            await deposits(new, ["a"] * 10)
            with pytest.raises(Unavailable, match="start it with the newer code"):
                await old.handle(Deposit("a", 1), "late")
            await check_rows(write_store)


class Busy(MemoryWriteStore):
    """A store that is written faster than anybody can read it."""

    write: Callable[[], Awaitable[None]] | None = None

    async def read(
        self, query: EventQuery, after: Position = 0, limit: int | None = None, size: int = PAGE_BYTES
    ) -> Slice:
        found = await super().read(query, after, limit, size)
        if self.write is not None:
            await self.write()
        return found


async def test_a_build_that_does_not_come_nearer_to_the_head_ends_all_the_same() -> None:
    write_store = Busy()
    await filled(write_store)
    written = 0

    async with Services(write_store, PLAIN) as old:

        async def write() -> None:
            nonlocal written
            sent = [old.handle(Deposit("a", 100), f"{written}-{n}") for n in range(2 * inline_build.PAGE)]
            with suppress(Unavailable):
                await asyncio.gather(*sent)
                written += len(sent)

        write_store.write = write
        async with asyncio.timeout(30), Services(write_store, INLINE_BANK) as new:
            write_store.write = None
            assert written > 0
            await new.handle(Deposit("a", 100), "new")
            await check_rows(write_store)


async def test_without_the_guard_of_the_list_an_old_node_leaves_rows_behind_the_log() -> None:
    write_store = MemoryWriteStore()
    await filled(write_store)
    async with Services(write_store, bank()) as old, Services(write_store, INLINE_BANK):
        old.inline.guards = ()
        await old.handle(Deposit("a", 100), "old")
        with pytest.raises(AssertionError):
            await check_rows(write_store)


async def test_a_session_changes_nothing_and_writes_only_what_the_others_would() -> None:
    write_store = MemoryWriteStore()
    await filled(write_store, INLINE_BANK)
    before = await read_inline_state(write_store)
    for module, problem in ((INLINE_BANK, None), (bank(), "newer code"), (bank(INLINE_TILL), "newer code")):
        session = Services(write_store, module)
        await session.commands.start(maintenance=True)
        assert (session.commands.problem is None) == (problem is None)
    assert await read_inline_state(write_store) == before
    async with Services(write_store, INLINE_BANK) as services:
        await services.handle(Deposit("a", 1), "1")
    await check_rows(write_store)


@pytest.mark.parametrize("seed", range(6))
async def test_of_nodes_with_other_code_that_start_at_once_the_last_one_goes_on(seed: int) -> None:
    write_store = MemoryWriteStore()
    await filled(write_store)
    modules = [INLINE_BANK, bank(version(2), INLINE_BALANCES), bank(INLINE_BALANCES)]
    nodes = [
        Services(YieldingStore(write_store, Random(seed + n)), module, retries=20)  # type: ignore[arg-type]
        for n, module in enumerate(modules)
    ]
    await asyncio.gather(*(node.__aenter__() for node in nodes))
    listed = (await read_inline_state(write_store)).listed
    (last,) = [n for n, module in enumerate(modules) if listed == {p.name: p.version for p in module.projections}]
    for n, node in enumerate(nodes):
        if n == last:
            await node.handle(Deposit("a", 100), f"{n}")
        else:
            with pytest.raises(Unavailable, match="newer code"):
                await node.handle(Deposit("a", 100), f"{n}")
    await check_rows(write_store, modules[last])
    for node in nodes:
        await node.__aexit__()


class Dropping(MemoryWriteStore):
    """A store where somebody takes rows over while another one throws them away."""

    async def rows(
        self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
    ) -> Mapping[str, LogRow]:
        found = await super().rows(space, keys, limit)
        for _ in range(3):
            await asyncio.sleep(0)
        return found


async def test_rows_that_are_taken_over_while_they_are_thrown_away_are_whole() -> None:
    write_store = Dropping()
    await filled(write_store, bank(version(1)))
    dropper, taker = Services(write_store, bank()), Services(write_store, bank(version(1)))
    await asyncio.gather(dropper.commands.start(), taker.commands.start())
    listed = (await read_inline_state(write_store)).listed
    await check_rows(write_store, bank(version(1)) if listed else bank())


async def test_nodes_on_postgresql_with_old_and_new_code_leave_no_row_behind(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline_build, "PAGE", 500)
    url = await fresh_log(postgres.dsn)
    stores = [await PostgresWriteStore.open(url) for _ in range(3)]
    old = Services(stores[0], bank(version(1)))
    await old.__aenter__()
    wrote, enough = 0, asyncio.Event()

    async def go_on() -> None:
        nonlocal wrote
        while True:
            await asyncio.gather(*(old.handle(Deposit(f"a{n}", 100 + n), f"{wrote}-{n}") for n in range(5)))
            wrote += 5
            if wrote >= 50:
                enough.set()

    going_on = asyncio.create_task(go_on())
    await enough.wait()
    new = bank(version(2), INLINE_BALANCES)
    nodes = [Services(write_store, new) for write_store in stores[1:]]
    await asyncio.gather(*(node.__aenter__() for node in nodes))
    await asyncio.gather(*(deposits(node, ["a"] * 20, start=n * 20) for n, node in enumerate(nodes)))
    with pytest.raises(Unavailable, match="newer code"):
        await going_on
    assert await check_rows(stores[1], new) >= 90
    assert await stores[1].rows("inline:1:till") == {}
    assert len((await stored(stores[1], new))["balances"]) >= 5
    for node in (old, *nodes):
        await node.__aexit__()
    for write_store in stores:
        await write_store.close()

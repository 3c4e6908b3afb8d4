"""An inline row is written with its events, or neither is; what one command makes of it, no other undoes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.command_service.inline_row_helpers import check_rows, deposits, stored
from tests.command_service.service_helpers import Services, YieldingStore, opened
from tests.sample_domains.bank import (
    EVENTS,
    INLINE_BALANCES,
    INLINE_BANK,
    INLINE_TILL,
    Account,
    AccountId,
    ChainedBalance,
    Close,
    Deposit,
    Deposited,
    Till,
    Transfer,
    Transferred,
    add_to_chain,
    any_command,
    bank,
    deposit,
    till,
)
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.domain.decision import DecisionModel
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import Rejected
from twofold.write_store.memory import MemoryWriteStore
from twofold.write_store.port import Append, Outcome, WriteStore
from twofold.write_store.postgres import PostgresWriteStore

RACERS = 32


@asynccontextmanager
async def store_of(kind: str, folder: Path, postgres: Postgres) -> AsyncIterator[WriteStore]:
    """A fresh store of this kind."""
    if kind != "postgres":
        async with opened(kind, folder) as write_store:
            yield write_store
        return
    log = await PostgresWriteStore.open(await fresh_log(postgres.dsn))
    try:
        yield log
    finally:
        await log.close()


def unexpected(outcomes: Sequence[object]) -> list[object]:
    return [each for each in outcomes if isinstance(each, BaseException) and not isinstance(each, Rejected)]


KINDS = pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])


@KINDS
async def test_a_row_is_there_in_the_very_moment_the_receipt_is(
    kind: str, tmp_path: Path, postgres_newest: Postgres
) -> None:
    async with store_of(kind, tmp_path, postgres_newest) as write_store, Services(write_store, INLINE_BANK) as services:
        total = 0
        for n in range(1, 30):
            written = await services.handle(Deposit(f"a{n % 3}", n + 100), f"c-{n}")
            total += n + 100
            assert written.position == n
            assert (await stored(write_store))["till"]["all"].cents == total
        assert await check_rows(write_store) == 29


@KINDS
async def test_rows_are_the_fold_of_the_log_whatever_the_commands_were(
    kind: str, tmp_path: Path, postgres_newest: Postgres
) -> None:
    random = Random(7)
    async with (
        store_of(kind, tmp_path, postgres_newest) as write_store,
        Services(write_store, INLINE_BANK, cached=3) as services,
    ):
        for turn in range(12):
            sent = [services.handle(any_command(random), f"c-{turn}-{n}") for n in range(40)]
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
            assert [
                each for each in outcomes if isinstance(each, BaseException) and not isinstance(each, Rejected)
            ] == []
        assert await check_rows(write_store) > 240


@pytest.mark.parametrize("seed", range(8))
async def test_services_that_share_a_log_and_know_nothing_of_one_another_keep_its_rows(seed: int) -> None:
    random = Random(seed)
    write_store = MemoryWriteStore()
    slow = [YieldingStore(write_store, Random(seed + n)) for n in range(3)]
    async with (
        Services(slow[0], INLINE_BANK, retries=10_000) as a,  # type: ignore[arg-type]
        Services(slow[1], INLINE_BANK, retries=10_000) as b,  # type: ignore[arg-type]
        Services(slow[2], INLINE_BANK, retries=10_000) as c,  # type: ignore[arg-type]
    ):
        for turn in range(8):
            sent = [random.choice((a, b, c)).handle(any_command(random), f"{turn}-{n}") for n in range(20)]
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
            assert [
                each for each in outcomes if isinstance(each, BaseException) and not isinstance(each, Rejected)
            ] == []
    assert await check_rows(write_store) > 80


@KINDS
async def test_of_thirty_two_racers_on_one_row_none_is_lost(
    kind: str, tmp_path: Path, postgres_newest: Postgres
) -> None:
    async with store_of(kind, tmp_path, postgres_newest) as write_store, Services(write_store, INLINE_BANK) as services:
        for turn in range(5):
            await deposits(services, [f"a{n}" for n in range(RACERS)], start=turn * RACERS)
        row: Till = (await stored(write_store))["till"]["all"]
        assert (row.deposits, row.cents) == (5 * RACERS, sum(range(100, 100 + 5 * RACERS)))
        assert await check_rows(write_store) == 5 * RACERS


async def test_of_thirty_two_racers_of_four_nodes_on_one_row_none_is_lost(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    stores = [await PostgresWriteStore.open(url) for _ in range(4)]
    nodes = [Services(write_store, INLINE_BANK) for write_store in stores]
    for node in nodes:
        await node.__aenter__()
    for turn in range(3):
        start = turn * RACERS
        sent = [nodes[n % 4].handle(Deposit(f"a{n}", n + 100), f"{start}-{n}") for n in range(RACERS)]
        await asyncio.gather(*sent)
    for node in nodes:
        await node.__aexit__()
    assert (await stored(stores[0]))["till"]["all"].deposits == 3 * RACERS
    assert await check_rows(stores[0]) == 3 * RACERS
    for write_store in stores:
        await write_store.close()


async def test_without_the_guards_of_rows_the_race_loses_some() -> None:
    class Unguarded(MemoryWriteStore):
        """Writes rows whatever their version is."""

        async def append(self, batch: Sequence[Append]) -> list[Outcome]:
            return [(await super(Unguarded, self).append([await self._let_through(each)]))[0] for each in batch]

        async def _let_through(self, append: Append) -> Append:
            rows = []
            for row in append.rows:
                present = (await self.rows(row.space, [row.key])).get(row.key)
                rows.append(msgspec.structs.replace(row, expected=present.version if present else 0))
            return msgspec.structs.replace(append, rows=tuple(rows))

    write_store = Unguarded()
    slow = YieldingStore(write_store, Random(1))
    async with Services(slow, INLINE_BANK) as first, Services(slow, INLINE_BANK) as second:  # type: ignore[arg-type]
        await asyncio.gather(*(node.handle(Deposit("a", 100), f"{n}") for n in range(16) for node in (first, second)))
    with pytest.raises(AssertionError):
        await check_rows(write_store)


async def test_commands_on_one_row_share_a_commit(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as write_store, Services(write_store, INLINE_BANK) as services:
        batches: list[list[Outcome]] = []
        append = write_store.append

        async def counted(batch: Sequence[Append]) -> list[Outcome]:
            batches.append(await append(batch))
            return batches[-1]

        write_store.append = counted  # type: ignore[method-assign]
        await deposits(services, [f"a{n}" for n in range(500)])
        assert len(batches) <= 4
        assert sum(len(batch) for batch in batches) == 500, "nothing had to be decided again"
        assert await check_rows(write_store) == 500


async def test_what_was_folded_on_top_of_an_append_that_failed_is_decided_anew(tmp_path: Path) -> None:
    async with (
        opened("sqlite", tmp_path) as write_store,
        Services(write_store, INLINE_BANK) as here,
        Services(write_store, INLINE_BANK) as there,
    ):
        await here.handle(Deposit("poor", 50), "d-0")
        # Cached here, and spent elsewhere: the transfer rests on an old state, and others build on its rows.
        with pytest.raises(Rejected):
            await here.handle(Transfer("poor", "rich", 60), "t-0")
        await there.handle(Transfer("poor", "rich", 50), "t-1")
        late = asyncio.create_task(here.handle(Transfer("poor", "rich", 50), "t-2"))
        after = [asyncio.create_task(here.handle(Deposit("rich", 100), f"d-{n}")) for n in range(1, 9)]
        with pytest.raises(Rejected, match="not-enough"):
            await late
        await asyncio.gather(*after)
        assert (await stored(write_store))["balances"]["rich"].cents == 850
        assert await check_rows(write_store) == 10


@pytest.mark.parametrize("seed", range(4))
async def test_callers_who_all_meet_in_a_few_rows_each_get_their_turn(seed: int, tmp_path: Path) -> None:
    random = Random(seed)

    async def caller(services: Services, number: int) -> None:
        for n in range(60):
            with suppress(Rejected):
                await services.handle(any_command(random), f"{number}-{n}")

    async with opened("sqlite", tmp_path) as write_store, Services(write_store, INLINE_BANK, retries=12) as services:
        await asyncio.gather(*(caller(services, number) for number in range(8)))
        assert await check_rows(write_store) > 300


async def test_many_that_fail_at_once_do_not_go_on_with_what_others_have_yet_to_give_up(tmp_path: Path) -> None:
    def crowd(command: Transfer, accounts: dict[AccountId, Account]) -> Transferred:
        return Transferred(command.source, command.target, command.cents)

    everyone = Projection("everyone", balance_of_all, key=lambda event: "all", lifecycle="inline")
    models = [DecisionModel(Account, by=AccountId)]
    module = Module("crowd", events=EVENTS, models=models, decisions=[crowd], projections=[INLINE_BALANCES, everyone])
    async with opened("sqlite", tmp_path) as write_store, Services(write_store, module, retries=30) as services:
        # Ten to each boundary, and all on one row: who is late at his boundary takes all behind him along.
        sent = [services.handle(Transfer(f"a{n % 64}", f"b{n % 64}", 1), f"{n}") for n in range(640)]
        await asyncio.gather(*sent)
        assert (await stored(write_store, module))["everyone"]["all"].events == 640


def balance_of_all(row: ChainedBalance | None, event: Transferred) -> ChainedBalance:
    return add_to_chain(row or ChainedBalance("all"), event.cents)


async def test_a_row_that_was_deleted_and_made_anew_is_not_mistaken_for_the_one_before() -> None:
    write_store = MemoryWriteStore()
    async with Services(write_store, INLINE_BANK) as here, Services(write_store, INLINE_BANK) as there:
        await here.handle(Deposit("a", 100), "1")
        await there.handle(Close("a"), "2")
        await there.handle(Deposit("a", 20), "3")
        # What is remembered here was written once, and so was what is there now.
        await here.handle(Deposit("a", 1), "4")
        assert (await stored(write_store))["balances"]["a"] == ChainedBalance("a", 21, 2, 20 * 31 + 1)
        assert await check_rows(write_store) == 4


async def test_an_event_of_many_keys_writes_them_all_and_one_of_none_writes_nothing() -> None:
    def keys(event: Deposited) -> list[str]:
        return [f"{n}" for n in range(event.cents)]

    module = bank(Projection("many", till, key=keys, lifecycle="inline"))
    write_store = MemoryWriteStore()
    async with Services(write_store, module) as services:
        await services.handle(Deposit("a", 0), "c-1")
        assert await stored(write_store, module) == {"many": {}}
        await services.handle(Deposit("a", 300), "c-2")
        assert len((await stored(write_store, module))["many"]) == 300
        assert await check_rows(write_store, module) == 2


async def test_several_events_of_one_command_are_folded_in_order() -> None:
    class Split(msgspec.Struct, frozen=True):
        account_id: AccountId

    def split(command: Split) -> list[Deposited]:
        return [Deposited(command.account_id, cents) for cents in (1, 2, 3)]

    module = Module("split", events=EVENTS, decisions=[split, deposit], projections=[INLINE_BALANCES, INLINE_TILL])
    write_store = MemoryWriteStore()
    async with Services(write_store, module) as services:
        await services.handle(Split("a"), "c-1")
        assert (await stored(write_store, module))["till"]["all"] == Till(6, 3, (1 * 31 + 2) * 31 + 3)
        assert await check_rows(write_store, module) == 3


async def test_more_rows_than_are_remembered_are_loaded_again(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as write_store:
        services = Services(write_store, INLINE_BANK)
        services.inline._size = 2
        async with services:
            for turn in range(3):
                await deposits(services, [f"a{n}" for n in range(20)], start=turn * 20)
                assert len(services.inline._cached) <= 2
            assert await check_rows(write_store) == 60

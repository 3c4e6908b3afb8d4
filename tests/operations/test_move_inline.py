"""The rows of inline projections move along with their log, in pages, and are kept where they come to."""

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from tests.command_service.inline_row_helpers import check_rows, stored
from tests.command_service.service_helpers import Services
from tests.query_service.bank_app_helpers import bank_app
from tests.sample_domains.bank import INLINE_BANK as TWO
from tests.sample_domains.bank import ChainedBalanceOf, Deposit, StatementOf, any_command
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.errors import Rejected
from twofold.operations.move import move
from twofold.settings import Settings
from twofold.stores import open_write_store
from twofold.world import RealWorld
from twofold.write_store import log_copier
from twofold.write_store.inline_state import read_inline_state
from twofold.write_store.port import WriteStore


async def opened(url: str) -> WriteStore:
    return await open_write_store(url, Settings(), RealWorld())


@pytest.mark.parametrize("page", [1, 7, 2_000])
async def test_rows_survive_the_way_to_postgresql_and_back(
    page: int, tmp_path: Path, postgres_newest: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [f"sqlite:///{tmp_path}/a.db", await fresh_log(postgres_newest.dsn), f"sqlite:///{tmp_path}/b.db"]
    random = Random(page)
    write_store = await opened(urls[0])
    async with Services(write_store, TWO) as services:
        for n in range(60):
            try:
                await services.handle(any_command(random, accounts=20), f"{n}")
            except Rejected:
                continue
    rows, noted = await stored(write_store), await read_inline_state(write_store)
    assert len(rows["balances"]) > 7
    await write_store.close()
    monkeypatch.setattr(log_copier, "PAGE", page)
    for before, after in pairwise(urls):
        done = await move(before, after, RealWorld())
        assert done.rows >= len(rows["balances"])
        write_store = await opened(after)
        assert (await stored(write_store), await read_inline_state(write_store)) == (rows, noted)
        async with Services(write_store, TWO) as services:
            await services.handle(Deposit("a1", 1), f"in {after}")
            await check_rows(write_store)
        rows = await stored(write_store)
        await write_store.close()


async def test_an_app_goes_on_with_its_rows_where_its_log_was_moved(tmp_path: Path, postgres_newest: Postgres) -> None:
    before, after = f"sqlite:///{tmp_path}/log.db", await fresh_log(postgres_newest.dsn)
    async with bank_app(before) as app:
        await app.send(Deposit("a", 100))
    await move(before, after, RealWorld())
    async with bank_app(after) as app:
        assert (await app.ask(ChainedBalanceOf("a"))).value.cents == 100
        receipt = await app.send(Deposit("a", 10))
        assert (await app.ask(ChainedBalanceOf("a"), position=receipt.token)).value.cents == 110
        assert (await app.ask(StatementOf("a"), position=receipt.token)).value.cents == [100, 10]

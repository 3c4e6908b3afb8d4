"""An inline view reads the row that the commands' own commits have written, and no other version's."""

import asyncio
from pathlib import Path

import pytest

from tests.query_service.bank_app_helpers import bank_app, bank_app_in
from tests.sample_domains.bank import (
    EVENTS,
    INLINE_BALANCES,
    Account,
    AccountId,
    ChainedBalance,
    ChainedBalanceOf,
    Close,
    Deposit,
    Deposited,
    Overview,
    OverviewOf,
    Richest,
    Turnover,
    chained_balance,
    chained_balance_of,
    deposit,
)
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.app import App
from twofold.domain.decision import DecisionModel
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.errors import InvalidMessage, Unavailable, UndeclaredAccess, WiringError
from twofold.query_service.view import View


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
async def test_it_is_as_new_as_the_receipt_without_waiting_for_anybody(
    kind: str, tmp_path: Path, postgres_newest: Postgres
) -> None:
    write_store = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/log.db"}.get(kind)
    async with bank_app(write_store or await fresh_log(postgres_newest.dsn)) as app:

        async def caller(account: str) -> None:
            for n in range(1, 20):
                receipt = await app.send(Deposit(account, 1))
                answer = await app.ask(ChainedBalanceOf(account), position=receipt.token, timeout=0)
                assert answer.value.events == n
                assert answer.position >= receipt.position

        await asyncio.gather(*(caller(f"a{n}") for n in range(6)))
        assert (await app.ask(ChainedBalanceOf("nobody"))).value is None
        await app.send(Close("a1"))
        assert (await app.ask(ChainedBalanceOf("a1"))).value is None


async def test_nobody_follows_for_it_and_the_read_store_does_not_know_it(tmp_path: Path) -> None:
    async with bank_app_in(tmp_path) as app:
        receipt = await app.send(Deposit("a", 100))
        answer = await app.ask(OverviewOf("a"), position=receipt.token)
        turnover = Turnover("a", 100)
        assert isinstance(answer.value, Overview)
        assert (answer.value.balance, answer.value.turnover) == (ChainedBalance("a", 100, 1, 100), turnover)
        assert "balances" not in app.models
        running = app._running
        assert running is not None
        assert {each.name for each in await running.read_store.checkpoints()} == {"turnovers"}


async def test_rows_outlive_the_read_database(tmp_path: Path) -> None:
    async with bank_app_in(tmp_path) as app:
        await app.send(Deposit("a", 100))
    for file in tmp_path.glob("views.db*"):
        file.unlink()
    async with bank_app_in(tmp_path) as app:
        assert (await app.ask(ChainedBalanceOf("a"))).value.cents == 100


async def test_it_cannot_be_searched() -> None:
    async with bank_app() as app:
        with pytest.raises(UndeclaredAccess, match=r"'balances' is inline.*by key \(`get`\).*lifecycle='async'"):
            await app.ask(Richest())


@pytest.mark.parametrize(("key", "refused"), [("", False), ("x" * 5_000, False), ("a\0b", True), ("\ud800", True)])
async def test_a_key_that_no_row_can_have_has_none(key: str, refused: bool) -> None:
    async with bank_app() as app:
        await app.send(Deposit("a", 100))
        if refused:
            with pytest.raises(InvalidMessage, match="key"):
                await app.ask(ChainedBalanceOf(key))
        else:
            assert (await app.ask(ChainedBalanceOf(key))).value is None


def second(row: ChainedBalance | None, event: Deposited, account: AccountId) -> ChainedBalance:
    return ChainedBalance(account, (row.cents if row else 0) + 2 * event.cents)


def module(version: int) -> Module:
    fold = chained_balance if version == 1 else second
    return Module(
        "bank",
        events=EVENTS,
        models=[DecisionModel(Account, by=AccountId)],
        decisions=[deposit],
        projections=[Projection("balances", fold, key=AccountId, lifecycle="inline", version=version)],
        queries=[chained_balance_of],
    )


async def test_another_version_answers_with_its_own_rows_and_the_old_one_not_at_all(postgres: Postgres) -> None:
    url = await fresh_log(postgres.dsn)
    async with App(module(1), write_store=url, read_store="memory:") as old:
        await old.send(Deposit("a", 100))
        async with App(module(2), write_store=url, read_store="memory:") as new:
            assert (await new.ask(ChainedBalanceOf("a"))).value == ChainedBalance("a", 200)
            with pytest.raises(Unavailable, match="'balances' version 1 are not kept any more"):
                await old.ask(ChainedBalanceOf("a"))
            with pytest.raises(Unavailable, match="newer code"):
                await old.send(Deposit("a", 1))
            status = await old.status()
            assert (status.health.command_side, status.health.query_side) == ("not_ready", "ready")
            assert any(
                "Another process keeps other inline projections" in each.message for each in status.health.problems
            )
            assert (await new.status()).health.level == "ready"
            await new.send(Deposit("a", 1))
            assert (await new.ask(ChainedBalanceOf("a"))).value == ChainedBalance("a", 202)


def test_one_row_type_stands_for_one_projection_whatever_its_lifecycle() -> None:
    async def ask(query: ChainedBalanceOf, balances: View[ChainedBalance]) -> ChainedBalance | None:
        return None

    twice = [INLINE_BALANCES, Projection("again", second, key=AccountId, lifecycle="live")]
    with pytest.raises(
        WiringError, match=r"View\[ChainedBalance\] must mean one projection, but these .*: balances, again"
    ):
        App(Module("m", events=EVENTS, projections=twice, queries=[ask]), write_store="memory:", read_store="memory:")

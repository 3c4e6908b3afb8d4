"""A live view is the fold of the log in the moment it is asked, and says so where there can be none."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.query_service.bank_app_helpers import bank_app, bank_app_in
from tests.sample_domains.bank import (
    STATEMENT_FAILS_ON,
    Close,
    Deposit,
    OverviewOf,
    Statement,
    StatementOf,
    Statements,
    Transfer,
    any_command,
    statement,
)
from tests.servers.postgres import Postgres
from tests.write_store.postgres_helpers import fresh_log
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS
from twofold.errors import FunctionFailed, InvalidMessage, Rejected, Unavailable, UndeclaredAccess
from twofold.query_service import live_views


async def folded(app: App, account: str) -> Statement | None:
    """What the answer must be: a plain fold over the whole log, made here."""
    row: Statement | None = None
    for recorded in (await app.log(ALL_EVENTS, limit=100_000)).events:
        event = app.events.decode(recorded)
        events_by_key = [event.source, event.target] if hasattr(event, "source") else [event.account_id]
        if account in events_by_key:
            row = statement(row, event, account, recorded)
    return row


@pytest.mark.parametrize("page", [1, 3, 1_000])
@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
async def test_it_is_the_fold_of_the_log(
    kind: str, page: int, tmp_path: Path, postgres_newest: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_views, "PAGE", page)
    write_store = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/log.db"}.get(kind)
    random = Random(page)
    async with bank_app(write_store or await fresh_log(postgres_newest.dsn)) as app:
        for _ in range(10):
            sent = [app.send(any_command(random)) for _ in range(12)]
            outcomes = await asyncio.gather(*sent, return_exceptions=True)
            assert all(isinstance(each, Rejected) for each in outcomes if isinstance(each, BaseException))
            account = f"a{random.randrange(4)}"
            assert (await app.ask(StatementOf(account))).value == await folded(app, account)
        assert [(await app.ask(StatementOf(f"a{n}"))).value for n in range(5)] == [
            await folded(app, f"a{n}") for n in range(5)
        ]


async def test_it_is_as_new_as_the_receipt_without_waiting_for_anybody() -> None:
    async with bank_app() as app:
        for n in range(1, 50):
            receipt = await app.send(Deposit("a", 100))
            answer = await app.ask(StatementOf("a"), position=receipt.token, timeout=0)
            assert answer.position == receipt.position == n
            assert answer.value == Statement("a", [100] * n, list(range(1, n + 1)))


async def test_a_row_that_a_fold_takes_away_is_not_there() -> None:
    async with bank_app() as app:
        await app.send(Deposit("a", 100))
        await app.send(Close("a"))
        assert (await app.ask(StatementOf("a"))).value is None
        assert (await app.ask(StatementOf("nobody"))).value is None
        await app.send(Deposit("a", 7))
        assert (await app.ask(StatementOf("a"))).value == Statement("a", [7], [3])


async def test_all_rows_of_one_answer_are_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with bank_app() as app:
        await app.send(Deposit("a", 100))
        (rows,) = (await app.queries._log_views.open(["statements"], _write_store(app))).values()
        assert await rows.get(rows.model, "b") is None
        await app.send(Transfer("a", "b", 40))
        for key, cents in (("a", [100]), ("b", None)):
            row = await rows.get(rows.model, key)
            assert (row and row.cents) == cents, "the transfer came after the answer had begun"
        assert (await app.ask(StatementOf("b"))).value == Statement("b", [40], [2])


async def test_nothing_is_kept_and_nobody_follows_for_it(tmp_path: Path) -> None:
    async with bank_app_in(tmp_path) as app:
        receipt = await app.send(Deposit("a", 100))
        await app.ask(OverviewOf("a"), position=receipt.token)
        assert [each.name for each in (await app.status()).followers] == ["turnovers"]
        assert list(app.models) == ["turnovers"]
        running = app._running
        assert running is not None
        assert {each.name for each in await running.read_store.checkpoints()} == {"turnovers"}


async def test_it_cannot_be_searched() -> None:
    async with bank_app() as app:
        with pytest.raises(UndeclaredAccess, match=r"'statements' is live.*by key \(`get`\).*lifecycle='async'"):
            await app.ask(Statements())


@pytest.mark.parametrize("key", ["a\0b", "\ud800"])
async def test_a_key_that_no_store_can_hold_is_the_callers_mistake(key: str) -> None:
    async with bank_app() as app:
        with pytest.raises(InvalidMessage, match="key"):
            await app.ask(StatementOf(key))


async def test_a_fold_that_fails_names_projection_key_and_position_and_keeps_the_error_to_itself() -> None:
    async with bank_app() as app:
        await app.send(Deposit("a", 1))
        await app.send(Deposit("a", STATEMENT_FAILS_ON))
        await app.send(Deposit("b", 1))
        with pytest.raises(FunctionFailed) as failed:
            await app.ask(StatementOf("a"))
        for said in ("'statements'", "row 'a'", "position 2", "'deposited'", "ValueError"):
            assert said in str(failed.value)
        assert "must not read" not in str(failed.value)
        assert "must not read" in str(failed.value.__cause__), "the log has it: the traceback of the answer"
        assert (await app.ask(StatementOf("b"))).value.cents == [1], "others are not touched"


async def test_it_does_not_need_the_read_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bank_app_in(tmp_path) as app:
        await app.send(Deposit("a", 100))
        running = app._running
        assert running is not None

        def away() -> Any:
            raise Unavailable("the read store is away")

        monkeypatch.setattr(running.read_store, "snapshot", away)
        assert (await app.ask(StatementOf("a"))).value.cents == [100]
        with pytest.raises(Unavailable, match="the read store is away"):
            await app.ask(OverviewOf("a"))


async def test_an_answer_of_several_views_is_as_new_as_the_oldest_of_them(tmp_path: Path) -> None:
    async with bank_app_in(tmp_path) as app:
        receipt = await app.send(Deposit("a", 100))
        assert (await app.ask(OverviewOf("a"), position=receipt.token)).position == 1
        running = app._running
        assert running is not None
        for worker in list(running.synchronization.workers):
            await worker.stop()
        late = await app.send(Deposit("a", 10))
        answer = await app.ask(OverviewOf("a"))
        assert answer.position == 1
        assert (answer.value.statement.cents, answer.value.balance.cents) == ([100, 10], 110)
        assert answer.value.turnover.cents == 100
        with pytest.raises(Unavailable, match="'turnovers' is 1 events behind"):
            await app.ask(OverviewOf("a"), position=late.token, timeout=0.01)


def _write_store(app: App) -> Any:
    running = app._running
    assert running is not None
    return running.write_store

"""In charge of one ledger read in three ways: rows kept with the events, folded when asked for, and following."""

from pathlib import Path

from msgspec import Struct

from tests.command_service.ledger import (
    BALANCES,
    EVENTS,
    AccountId,
    Balance,
    Closed,
    Deposited,
    Holds,
    Transferred,
    close,
    deposit,
    transfer,
)
from twofold.app import App
from twofold.domain.decision import DecisionModel
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module
from twofold.domain.projection import Projection
from twofold.query_service.view import View
from twofold.settings import Settings

BROKEN = 6_666
"""So many cents are more than a statement takes."""


class Statement(Struct, frozen=True):
    """What happened to an account, and where."""

    account: str
    cents: list[int]
    positions: list[int]


def state(
    row: Statement | None, event: Deposited | Transferred | Closed, account: AccountId, recorded: RecordedEvent
) -> Statement | None:
    row = row or Statement(account, [], [])
    match event:
        case Deposited():
            if event.cents == BROKEN:
                raise ValueError("what the caller must not read")
            cents = event.cents
        case Transferred():
            cents = event.cents * ((event.target == account) - (event.source == account))
        case Closed():
            return None
    return Statement(account, [*row.cents, cents], [*row.positions, recorded.position])


class Turnover(Struct, frozen=True):
    """What was ever paid in."""

    account: str
    cents: int


def turn_over(row: Turnover | None, event: Deposited) -> Turnover:
    return Turnover(event.account, (row.cents if row else 0) + event.cents)


class BalanceOf(Struct, frozen=True):
    account: str


class StatementOf(Struct, frozen=True):
    account: str


class TurnoverOf(Struct, frozen=True):
    account: str


class AllOf(Struct, frozen=True):
    account: str


class Everything(Struct, frozen=True):
    account: str
    balance: Balance | None
    statement: Statement | None
    turnover: Turnover | None


class Statements(Struct, frozen=True):
    pass


class Richest(Struct, frozen=True):
    pass


async def balance_of(query: BalanceOf, balances: View[Balance]) -> Balance | None:
    return await balances.get(query.account)


async def statement_of(query: StatementOf, statements: View[Statement]) -> Statement | None:
    return await statements.get(query.account)


async def turnover_of(query: TurnoverOf, turnovers: View[Turnover]) -> Turnover | None:
    return await turnovers.get(query.account)


async def all_of(
    query: AllOf, balances: View[Balance], statements: View[Statement], turnovers: View[Turnover]
) -> Everything:
    account = query.account
    return Everything(account, await balances.get(account), await statements.get(account), await turnovers.get(account))


async def all_statements(query: Statements, statements: View[Statement]) -> list[Statement]:
    return await statements.find()


async def richest(query: Richest, balances: View[Balance]) -> list[Balance]:
    return (await balances.page(size=3, order_by="-cents")).items


THREE_LIVES = Module(
    "ledger",
    events=EVENTS,
    models=[DecisionModel(Holds, by=AccountId)],
    decisions=[deposit, transfer, close],
    projections=[
        BALANCES,
        Projection("statements", state, key=AccountId, lifecycle="live"),
        Projection("turnovers", turn_over, key=AccountId),
    ],
    queries=[balance_of, statement_of, turnover_of, all_of, all_statements, richest],
)


def three_lives(write_store: str = "memory:", read_store: str = "memory:") -> App:
    """The app, on stores of these URLs."""
    return App(THREE_LIVES, write_store=write_store, read_store=read_store, settings=Settings(wait_seconds=2.0))


def three_lives_in(folder: Path) -> App:
    """The app, on files."""
    return three_lives(f"sqlite:///{folder}/log.db", f"sqlite:///{folder}/views.db")

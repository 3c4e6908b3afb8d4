"""A sample domain: a bank with accounts and transfers, and read models of all three lifecycles.

Some folds fail on purpose, for accounts and amounts that are named here.
"""

from datetime import date
from random import Random
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from twofold.domain.decision import DecisionModel
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.errors import Rejected
from twofold.query_service.view import View

AccountId = Annotated[str, Tag("account")]
Cents = Annotated[int, Meta(ge=1, le=1_000_000_00)]

POISONED = {"poison"}
"""The projection `balances` and the policy `advisor` fail for these accounts, until a test takes them out."""
STATEMENT_FAILS_ON = 6_666
"""The fold of a statement fails on so many cents."""
TILL_FAILS_ON = 13
"""The fold of the till fails on so many cents."""

# ------------------------------------------------------------------------------------------------ commands and events


class Note(Struct, frozen=True):
    """A comment on a payment."""

    text: str
    language: str = "en"


class Deposit(Struct, frozen=True):
    """Put money into an account."""

    account_id: AccountId
    cents: Cents
    notes: list[Note] = []


class Withdraw(Struct, frozen=True):
    """Take money out of an account."""

    account_id: AccountId
    cents: Cents


class Transfer(Struct, frozen=True):
    """Move money from one account to another."""

    source: AccountId
    target: AccountId
    cents: Cents


class Close(Struct, frozen=True):
    """Close an account. Its balance is then 0."""

    account_id: AccountId


class Deposited(Struct, frozen=True):
    account_id: AccountId
    cents: int


class Withdrawn(Struct, frozen=True):
    account_id: AccountId
    cents: int


class Transferred(Struct, frozen=True):
    source: AccountId
    target: AccountId
    cents: int


class Closed(Struct, frozen=True):
    account_id: AccountId


BankEvent = Deposited | Withdrawn | Transferred | Closed
EVENTS = [Deposited, Withdrawn, Transferred, Closed]


def cents_moved(event: Deposited | Withdrawn | Transferred, account_id: str) -> int:
    """How much the balance of an account changes with an event."""
    match event:
        case Deposited():
            return event.cents
        case Withdrawn():
            return -event.cents
        case Transferred():
            return event.cents * ((event.target == account_id) - (event.source == account_id))


# ------------------------------------------------------------------------------------------------------------ decisions


class Account(Struct, frozen=True):
    """What an account holds. It has its id, so that it can tell the two sides of a transfer apart."""

    account_id: AccountId
    cents: int = 0

    def evolve(self, event: BankEvent) -> "Account":
        if isinstance(event, Closed):
            return Account(self.account_id)
        return Account(self.account_id, self.cents + cents_moved(event, self.account_id))


def deposit(command: Deposit) -> Deposited:
    """Depends on no earlier event: two deposits meet only in the row of an inline projection."""
    return Deposited(command.account_id, command.cents)


def withdraw(command: Withdraw, account: Account) -> Withdrawn:
    if account.cents < command.cents:
        raise Rejected("not-enough", f"There are only {account.cents} cents in it.")
    return Withdrawn(command.account_id, command.cents)


def transfer(command: Transfer, accounts: dict[AccountId, Account]) -> Transferred:
    if accounts[command.source].cents < command.cents:
        raise Rejected("not-enough")
    return Transferred(command.source, command.target, command.cents)


def close(command: Close, account: Account) -> Closed:
    return Closed(command.account_id)


MODELS = [DecisionModel(Account, by=AccountId)]
DECISIONS = [deposit, withdraw, transfer, close]


def any_command(random: Random, accounts: int = 4) -> Deposit | Transfer | Close:
    """A random command about one or two of a few accounts."""
    source, target = random.sample([f"a{n}" for n in range(accounts)], 2)
    kind = random.random()
    if kind < 0.5:
        return Deposit(source, random.randint(20, 99))
    return Close(source) if kind < 0.6 else Transfer(source, target, random.randint(1, 30))


# ---------------------------------------------------------------------------------------------------------- read models


class Balance(Struct, frozen=True):
    """What an account holds."""

    account_id: str
    cents: int


def balance_of(row: Balance | None, event: Deposited | Withdrawn, account_id: AccountId) -> Balance:
    if account_id in POISONED:
        raise ValueError("this one cannot be folded")
    return Balance(account_id, (row.cents if row else 0) + cents_moved(event, account_id))


async def advise(event: Deposited | Withdrawn) -> None:
    if event.account_id in POISONED:
        raise LookupError("nobody knows this customer")


class ChainedBalance(Struct, frozen=True):
    """What an account holds. `chain` shows if an event is lost, doubled or folded in another order."""

    account_id: str
    cents: int = 0
    events: int = 0
    chain: int = 0


def chained_balance(row: ChainedBalance | None, event: BankEvent, account_id: AccountId) -> ChainedBalance | None:
    if isinstance(event, Closed):
        return None
    return add_to_chain(row or ChainedBalance(account_id), cents_moved(event, account_id))


def add_to_chain(row: ChainedBalance, cents: int) -> ChainedBalance:
    return ChainedBalance(row.account_id, row.cents + cents, row.events + 1, (row.chain * 31 + cents) % 1_000_003)


class Till(Struct, frozen=True):
    """All deposits together, in one row."""

    cents: int = 0
    deposits: int = 0
    chain: int = 0


def till(row: Till | None, event: Deposited) -> Till:
    if event.cents == TILL_FAILS_ON:
        raise ValueError("an unlucky number")
    row = row or Till()
    return Till(row.cents + event.cents, row.deposits + 1, (row.chain * 31 + event.cents) % 1_000_003)


class Statement(Struct, frozen=True):
    """What happened to an account, and at which positions."""

    account_id: str
    cents: list[int]
    positions: list[int]


def statement(
    row: Statement | None, event: BankEvent, account_id: AccountId, recorded: RecordedEvent
) -> Statement | None:
    if isinstance(event, Closed):
        return None
    if isinstance(event, Deposited) and event.cents == STATEMENT_FAILS_ON:
        raise ValueError("what the caller must not read")
    row = row or Statement(account_id, [], [])
    cents = [*row.cents, cents_moved(event, account_id)]
    return Statement(account_id, cents, [*row.positions, recorded.position])


class Turnover(Struct, frozen=True):
    """The sum of all deposits into an account."""

    account_id: str
    cents: int


def turnover(row: Turnover | None, event: Deposited) -> Turnover:
    return Turnover(event.account_id, (row.cents if row else 0) + event.cents)


INLINE_BALANCES = Projection("balances", chained_balance, key=AccountId, lifecycle="inline")
INLINE_TILL = Projection("till", till, key=lambda event: "all", lifecycle="inline")
LIVE_STATEMENTS = Projection("statements", statement, key=AccountId, lifecycle="live")
ASYNC_TURNOVERS = Projection("turnovers", turnover, key=AccountId)

# -------------------------------------------------------------------------------------------------------------- queries


class BalanceOf(Struct, frozen=True):
    """One balance."""

    account_id: str


class Balances(Struct, frozen=True):
    """Some balances."""

    account_ids: list[str] = []
    least: int = 0
    since: date | None = None
    order: Literal["up", "down"] = "up"


async def one_balance(query: BalanceOf, balances: View[Balance]) -> Balance | None:
    return await balances.get(query.account_id)


async def some_balances(query: Balances, balances: View[Balance]) -> list[Balance]:
    ids = set(query.account_ids)
    rows = [row for row in await balances.find() if row.cents >= query.least and (not ids or row.account_id in ids)]
    return sorted(rows, key=lambda row: row.cents, reverse=query.order == "down")


class ChainedBalanceOf(Struct, frozen=True):
    account_id: str


class Richest(Struct, frozen=True):
    pass


class StatementOf(Struct, frozen=True):
    account_id: str


class Statements(Struct, frozen=True):
    pass


class TurnoverOf(Struct, frozen=True):
    account_id: str


class OverviewOf(Struct, frozen=True):
    account_id: str


class Overview(Struct, frozen=True):
    """One row of each lifecycle."""

    account_id: str
    balance: ChainedBalance | None
    statement: Statement | None
    turnover: Turnover | None


async def chained_balance_of(query: ChainedBalanceOf, balances: View[ChainedBalance]) -> ChainedBalance | None:
    return await balances.get(query.account_id)


async def richest(query: Richest, balances: View[ChainedBalance]) -> list[ChainedBalance]:
    return (await balances.page(size=3, order_by="-cents")).items


async def statement_of(query: StatementOf, statements: View[Statement]) -> Statement | None:
    return await statements.get(query.account_id)


async def all_statements(query: Statements, statements: View[Statement]) -> list[Statement]:
    return await statements.find()


async def turnover_of(query: TurnoverOf, turnovers: View[Turnover]) -> Turnover | None:
    return await turnovers.get(query.account_id)


async def overview_of(
    query: OverviewOf, balances: View[ChainedBalance], statements: View[Statement], turnovers: View[Turnover]
) -> Overview:
    key = query.account_id
    return Overview(key, await balances.get(key), await statements.get(key), await turnovers.get(key))


# -------------------------------------------------------------------------------------------------------------- modules


def bank(*projections: Projection, **more: Any) -> Module:
    """The bank with these projections, and with queries or other parts where a test needs them."""
    parts = {"events": EVENTS, "models": MODELS, "decisions": DECISIONS, "projections": projections}
    return Module("bank", **parts | more)


def followed_bank(freshness: float | None = None, **more: Any) -> Module:
    """The bank with a projection and a policy that follow the log."""
    balances = Projection("balances", balance_of, key=AccountId, freshness=freshness)
    return bank(
        balances,
        **{"queries": [one_balance, some_balances], "policies": [Policy("advisor", advise, key=AccountId)]} | more,
    )


INLINE_BANK = bank(INLINE_BALANCES, INLINE_TILL)
BANK_OF_ALL_LIFECYCLES = bank(
    INLINE_BALANCES,
    LIVE_STATEMENTS,
    ASYNC_TURNOVERS,
    queries=[chained_balance_of, richest, statement_of, all_statements, turnover_of, overview_of],
)

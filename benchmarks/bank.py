"""The work that the benchmarks measure: an account with about ten events of history, and one more deposit."""

from typing import Annotated

from msgspec import Struct

from twofold import App, DecisionModel, Module, Projection, Rejected, Settings, Tag, View

HISTORY = 10

AccountId = Annotated[str, Tag("account")]


class Deposit(Struct, frozen=True):
    account_id: AccountId
    amount: int


class Deposited(Struct, frozen=True):
    account_id: AccountId
    amount: int


class Account(Struct, frozen=True):
    balance: int = 0

    def evolve(self, event: Deposited) -> "Account":
        return Account(self.balance + event.amount)


def deposit(command: Deposit, account: Account) -> Deposited:
    if account.balance + command.amount > 10**12:
        raise Rejected("too-rich")
    return Deposited(command.account_id, command.amount)


class Balance(Struct, frozen=True):
    account_id: str
    balance: int
    deposits: int


def keep_balance(row: Balance | None, event: Deposited) -> Balance:
    if row is None:
        return Balance(event.account_id, event.amount, 1)
    return Balance(row.account_id, row.balance + event.amount, row.deposits + 1)


class BalanceOf(Struct, frozen=True):
    account_id: str


async def balance_of(query: BalanceOf, balances: View[Balance]) -> Balance | None:
    return await balances.get(query.account_id)


DECIDING = Module("bank", events=[Deposited], models=[DecisionModel(Account, by=AccountId)], decisions=[deposit])
WHOLE = Module(
    "bank",
    events=[Deposited],
    models=[DecisionModel(Account, by=AccountId)],
    decisions=[deposit],
    projections=[Projection("balances", keep_balance, key=AccountId)],
    queries=[balance_of],
)


def bank(
    folder: object,
    module: Module = DECIDING,
    *,
    write_store: str | None = None,
    read_store: str | None = None,
    **settings: int,
) -> App:
    """An app on SQLite files in a folder, or on other stores."""
    chosen = Settings(**settings)
    return App(
        module,
        write_store=write_store or f"sqlite:///{folder}/log.db",
        read_store=read_store or f"sqlite:///{folder}/views.db",
        settings=chosen,
    )

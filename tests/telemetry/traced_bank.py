"""A bank whose policy answers the deposits of `ann` with a command, and those of `bob` with one that is due later."""

from datetime import timedelta
from typing import Any

from tests.sample_domains.bank import AccountId, Deposit, Deposited, balance_of, bank, one_balance, some_balances
from twofold import App, Later, Policy, Projection

GIFT = 7
BALANCES = "balances"
GIVER = "giver"


async def give(event: Deposited) -> Deposit | Later | None:
    """A gift for two of the customers."""
    match event.account_id:
        case "ann":
            return Deposit("gifts", GIFT)
        case "bob":
            return Later(Deposit("gifts", GIFT), timedelta(milliseconds=1))
        case _:
            return None


def traced_bank(**options: Any) -> App:
    """An app with a projection, and the policy that gives."""
    module = bank(
        Projection(BALANCES, balance_of, key=AccountId),
        queries=[one_balance, some_balances],
        policies=[Policy(GIVER, give, key=AccountId)],
    )
    return App(module, **{"write_store": "memory:", "read_store": "memory:"} | options)

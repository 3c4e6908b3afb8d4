"""In charge of a ledger with inline projections, and of the check that their rows are the fold of the log.

Every row carries a chain over the events that made it, so that one lost, doubled or taken in another order shows.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Annotated, Any

from msgspec import Struct

from tests.command_service.bench_of_rules import Services
from twofold.command_service import Written
from twofold.domain.decision import DecisionModel
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Module, Wiring
from twofold.domain.projection import Projection
from twofold.domain.tags import Tag
from twofold.errors import Rejected
from twofold.write_store.inline_state import COMPLETE, InlineProjection, read_inline_state
from twofold.write_store.port import WriteStore

AccountId = Annotated[str, Tag("account")]


class Deposit(Struct, frozen=True):
    account: AccountId
    cents: int


class Transfer(Struct, frozen=True):
    source: AccountId
    target: AccountId
    cents: int


class Close(Struct, frozen=True):
    account: AccountId


class Deposited(Struct, frozen=True):
    account: AccountId
    cents: int


class Transferred(Struct, frozen=True):
    source: AccountId
    target: AccountId
    cents: int


class Closed(Struct, frozen=True):
    account: AccountId


class Holds(Struct, frozen=True):
    """What an account holds. An account that does not know of others knows nothing of transfers to it."""

    account: AccountId
    cents: int = 0

    def evolve(self, event: Deposited | Transferred | Closed) -> "Holds":
        match event:
            case Deposited():
                return Holds(self.account, self.cents + event.cents)
            case Transferred():
                sign = (event.target == self.account) - (event.source == self.account)
                return Holds(self.account, self.cents + sign * event.cents)
            case Closed():
                return Holds(self.account)


def deposit(command: Deposit) -> Deposited:
    """Rests on nothing: only the row that an inline projection keeps can make two of them meet."""
    return Deposited(command.account, command.cents)


def transfer(command: Transfer, accounts: dict[AccountId, Holds]) -> Transferred:
    if accounts[command.source].cents < command.cents:
        raise Rejected("not-enough")
    return Transferred(command.source, command.target, command.cents)


def close(command: Close, holds: Holds) -> Closed:
    return Closed(command.account)


class Balance(Struct, frozen=True):
    account: str
    cents: int = 0
    events: int = 0
    chain: int = 0


def balance(row: Balance | None, event: Deposited | Transferred | Closed, account: AccountId) -> Balance | None:
    row = row or Balance(account)
    match event:
        case Deposited():
            return moved(row, event.cents)
        case Transferred():
            return moved(row, event.cents * ((event.target == account) - (event.source == account)))
        case Closed():
            return None


def moved(row: Balance, cents: int) -> Balance:
    return Balance(row.account, row.cents + cents, row.events + 1, (row.chain * 31 + cents) % 1_000_003)


class Till(Struct, frozen=True):
    cents: int = 0
    deposits: int = 0
    chain: int = 0


def till(row: Till | None, event: Deposited) -> Till:
    if event.cents == UNLUCKY:
        raise ValueError("an unlucky number")
    row = row or Till()
    return Till(row.cents + event.cents, row.deposits + 1, (row.chain * 31 + event.cents) % 1_000_003)


UNLUCKY = 13

EVENTS = [Deposited, Transferred, Closed]
BALANCES = Projection("balances", balance, key=AccountId, lifecycle="inline")
TILL = Projection("till", till, key=lambda event: "all", lifecycle="inline")


def ledger(*projections: Projection) -> Module:
    """The ledger with these projections."""
    return Module(
        "ledger",
        events=EVENTS,
        models=[DecisionModel(Holds, by=AccountId)],
        decisions=[deposit, transfer, close],
        projections=projections,
    )


LEDGER = ledger(BALANCES, TILL)


async def stored(write_store: WriteStore, module: Module = LEDGER) -> dict[str, dict[str, Any]]:
    """The rows of every inline projection that are there, by projection and key."""
    found: dict[str, dict[str, Any]] = {}
    for projection in Wiring([module]).projections.values():
        kept = InlineProjection(projection)
        rows = await write_store.rows(kept.space)
        found[kept.name] = {key: kept.read(key, row).row for key, row in rows.items() if key != COMPLETE}
    return found


async def folded(write_store: WriteStore, module: Module = LEDGER) -> dict[str, dict[str, Any]]:
    """What those rows must be: a plain fold of the log, made here."""
    wiring = Wiring([module])
    decode = Services(write_store, module).codec.decode
    found: dict[str, dict[str, Any]] = {}
    for recorded in (await write_store.read(ALL_EVENTS)).events:
        event = decode(recorded)
        for projection in wiring.projections.values():
            rows = found.setdefault(projection.name, {})
            for key in projection.keys(event) if type(event) in projection.events else ():
                rows[key] = projection.fold(rows.get(key), event, key, recorded)
    return {name: {key: row for key, row in rows.items() if row is not None} for name, rows in found.items()}


async def check_rows(write_store: WriteStore, module: Module = LEDGER) -> int:
    """AssertionError unless every inline row is the fold of the log, and all are complete. The head."""
    head = (await write_store.read(ALL_EVENTS, limit=1)).head
    assert await stored(write_store, module) == (
        await folded(write_store, module) or {name: {} for name in names(module)}
    )
    noted = await read_inline_state(write_store)
    assert noted.listed == {each.name: each.version for each in module.projections}
    for projection in Wiring([module]).projections.values():
        kept = InlineProjection(projection)
        assert noted.built[kept.label][0].state == "complete"
        assert COMPLETE in await write_store.rows(kept.space, [COMPLETE])
    return head


def names(module: Module) -> list[str]:
    return [each.name for each in module.projections]


async def deposits(services: Services, accounts: Sequence[str], *, start: int = 0) -> list[Written]:
    """What became of a deposit into each account, all sent at once."""
    sent = [services.handle(Deposit(account, n + 100), f"d-{start}-{n}") for n, account in enumerate(accounts, start)]
    return await asyncio.gather(*sent)


def any_command(random: Random, accounts: int = 4) -> Deposit | Transfer | Close:
    """One command or another, about few accounts."""
    source, target = random.sample([f"a{n}" for n in range(accounts)], 2)
    what = random.random()
    if what < 0.5:
        return Deposit(source, random.randint(20, 99))
    return Close(source) if what < 0.6 else Transfer(source, target, random.randint(1, 30))

"""A small bank to be asked over HTTP, with parts that are slow, that fail and that break; run it to serve it.

python -m tests.http.bank [--write-store URL] [--read-store URL] [--notice SECONDS] prints its address,
then serves until SIGTERM.
"""

import argparse
import asyncio
import sys
from datetime import date
from typing import Annotated, Literal

from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from twofold import App, DecisionModel, Module, Policy, Projection, Rejected, Settings, Tag, View
from twofold.http import Limits
from twofold.http.server import run

AccountId = Annotated[str, Tag("account")]
Cents = Annotated[int, Meta(ge=1, le=1_000_000_00)]

SHORT = Limits(
    header_seconds=1.0,
    body_seconds=1.0,
    request_seconds=2.0,
    write_seconds=1.0,
    heartbeat_seconds=0.2,
    streams_per_client=20,
)
"""The same limits as outside, with times a test can wait for."""

POISONED = {"poison"}
"""Accounts that can neither be folded nor be looked after, until a test mends them."""


class Note(Struct, frozen=True):
    """A word on a payment."""

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


class Break(Struct, frozen=True):
    """Run into an error nobody foresaw."""

    account_id: AccountId


class Dawdle(Struct, frozen=True):
    """Take some seconds to decide."""

    account_id: AccountId
    seconds: Annotated[float, Meta(ge=0, le=60)]


class Moved(Struct, frozen=True):
    """Money came in, or went out."""

    account_id: AccountId
    cents: int


class Account(Struct, frozen=True):
    """What an account holds."""

    cents: int = 0

    def evolve(self, event: Moved) -> "Account":
        return Account(self.cents + event.cents)


def deposit(command: Deposit, account: Account) -> Moved:
    return Moved(command.account_id, command.cents)


def withdraw(command: Withdraw, account: Account) -> Moved:
    if account.cents < command.cents:
        raise Rejected("not-enough", f"There are only {account.cents} cents in it.")
    return Moved(command.account_id, -command.cents)


def break_down(command: Break, account: Account) -> Moved:
    raise KeyError("secret-of-the-house")


def dawdle(command: Dawdle, account: Account) -> None:
    return None


async def take_time(command: Dawdle) -> Dawdle:
    await asyncio.sleep(command.seconds)
    return command


class Balance(Struct, frozen=True):
    """What an account holds, to be looked at."""

    account_id: str
    cents: int


def balance_of(row: Balance | None, event: Moved) -> Balance:
    if event.account_id in POISONED:
        raise ValueError("this one cannot be folded")
    return Balance(event.account_id, (row.cents if row else 0) + event.cents)


async def look_after(event: Moved) -> None:
    if event.account_id in POISONED:
        raise ConnectionError("nobody answers the phone")


class BalanceOf(Struct, frozen=True):
    """One balance."""

    account_id: str


class Balances(Struct, frozen=True):
    """Some balances."""

    account_ids: list[str] = []
    least: int = 0
    since: date | None = None
    order: Literal["up", "down"] = "up"


class Broken(Struct, frozen=True):
    """A question whose answer breaks."""


class Long(Struct, frozen=True):
    """An answer of so many bytes."""

    size: Annotated[int, Meta(ge=0, le=50_000_000)] = 20_000_000


async def one_balance(query: BalanceOf, balances: View[Balance]) -> Balance | None:
    return await balances.get(query.account_id)


async def some_balances(query: Balances, balances: View[Balance]) -> list[Balance]:
    wanted = set(query.account_ids)
    found = [row for row in await balances.find() if row.cents >= query.least]
    rows = [row for row in found if not wanted or row.account_id in wanted]
    return sorted(rows, key=lambda row: row.cents, reverse=query.order == "down")


async def broken(query: Broken, balances: View[Balance]) -> str:
    raise KeyError("secret-of-the-house")


async def long(query: Long, balances: View[Balance]) -> str:
    return "x" * query.size


def bank(freshness: float | None = None) -> Module:
    """The bank's domain."""
    return Module(
        "bank",
        events=[Moved],
        models=[DecisionModel(Account, by=AccountId)],
        decisions=[deposit, withdraw, break_down, dawdle],
        projections=[Projection("balances", balance_of, key=AccountId, freshness=freshness)],
        queries=[one_balance, some_balances, broken, long],
        policies=[Policy("advisor", look_after)],
        prepare=[take_time],
    )


def pages(app: App) -> Starlette:
    """Two pages: one that works, and one that does not."""

    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse("the bank")

    async def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    async def fail(request: Request) -> PlainTextResponse:
        raise KeyError("secret-of-the-house")

    return Starlette(routes=[Route("/", show), Route("/read", read, methods=["POST"]), Route("/fail", fail)])


def open_bank(write_store: str = "memory:", read_store: str = "memory:", freshness: float | None = None) -> App:
    settings = Settings(fold_retries=0, wait_seconds=1.0)
    return App(bank(freshness), write_store=write_store, read_store=read_store, settings=settings, pages=pages)


def tell(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write-store", default="memory:")
    parser.add_argument("--read-store", default="memory:")
    parser.add_argument("--notice", type=float, default=0.0)
    told = parser.parse_args()
    run(
        open_bank(told.write_store, told.read_store),
        port=0,
        limits=SHORT,
        notice_seconds=told.notice,
        started=tell,
    )


if __name__ == "__main__":
    main()

"""A bank with access rules, and its callers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from msgspec import Struct

from tests.sample_domains.bank import (
    Balance,
    BalanceOf,
    Balances,
    Close,
    Deposit,
    Transfer,
    followed_bank,
    one_balance,
    some_balances,
)
from twofold import ALL, ANYONE, LOGGED_IN, Actor, Allow, App, Module, NotAuthenticated, View
from twofold.http import Api, asgi

ROLES = {"ann": ["customer"], "clara": ["clerk"], "otto": ["operator"], "rita": ["auditor"]}
"""The callers who are logged in, besides those who are not."""

CALLERS = [None, *ROLES]


class OwnBalance(Struct, frozen=True):
    """The balance of the account that has the name of the caller."""


class Greeting(Struct, frozen=True):
    """Depends on the caller, where there is one."""


async def own_balance(query: OwnBalance, balances: View[Balance], actor: Actor) -> Balance | None:
    return await balances.get(actor.name)


async def greeting(query: Greeting, actor: Actor | None) -> str:
    return "Hello." if actor is None else f"Hello, {actor.name} ({', '.join(sorted(actor.roles))})."


RULES = [
    Allow(ANYONE, queries=[Greeting]),
    Allow(LOGGED_IN, queries=[OwnBalance]),
    Allow("customer", commands=[Deposit, Transfer]),
    Allow("clerk", commands=[Deposit, Close], queries=[BalanceOf, Balances]),
    Allow("operator", operate=ALL, inspect=True),
    Allow("auditor", read_log=True, inspect=True, operate=["pause"]),
]


def by_name(headers: dict[str, str]) -> Actor | None:
    """The name in `x-caller` is taken as it is: these tests are about what a caller may do."""
    name = headers.get("x-caller")
    if name is None:
        return None
    if name not in ROLES:
        raise NotAuthenticated("Nobody knows this caller.")
    return Actor(name, frozenset(ROLES[name]))


def guarded_bank(**more: object) -> App:
    module: Module = followed_bank(queries=[one_balance, some_balances, own_balance, greeting])
    options = {"write_store": "memory:", "read_store": "memory:", "authenticate": [by_name], "access": RULES}
    return App(module, **options | more)  # type: ignore[arg-type]


@asynccontextmanager
async def client_of(app: App) -> AsyncIterator[tuple[httpx.AsyncClient, Api]]:
    """A client without credentials, of the app without a server."""
    api = asgi(app)
    async with app, httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://testserver") as client:
        yield client, api


def credentials(caller: str | None) -> dict[str, str]:
    return {} if caller is None else {"x-caller": caller}

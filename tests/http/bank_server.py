"""The sample bank as a server for tests, with parts that are slow, that fail and that break; run it to serve it.

python -m tests.http.bank_server [--write-store URL] [--read-store URL] [--notice SECONDS] prints its address,
then serves until SIGTERM.
"""

import argparse
import asyncio
import sys
from typing import Annotated

from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.sample_domains.bank import (
    DECISIONS,
    Account,
    AccountId,
    Balance,
    Deposited,
    followed_bank,
    one_balance,
    some_balances,
)
from twofold import App, Module, Settings, View
from twofold.http import Limits
from twofold.http.server import run, serve

SHORT = Limits(
    header_seconds=1.0,
    body_seconds=1.0,
    request_seconds=2.0,
    write_seconds=1.0,
    heartbeat_seconds=0.2,
    streams_per_client=20,
)
"""The limits of a real server, with times that a test can wait for."""


class Break(Struct, frozen=True):
    """Run into an error nobody foresaw."""

    account_id: AccountId


class Dawdle(Struct, frozen=True):
    """Take some seconds to decide."""

    account_id: AccountId
    seconds: Annotated[float, Meta(ge=0, le=60)]


def break_down(command: Break, account: Account) -> Deposited:
    raise KeyError("secret-of-the-house")


def dawdle(command: Dawdle, account: Account) -> None:
    return None


async def take_time(command: Dawdle) -> Dawdle:
    await asyncio.sleep(command.seconds)
    return command


class Broken(Struct, frozen=True):
    """A question whose answer breaks."""


class Long(Struct, frozen=True):
    """An answer of so many bytes."""

    size: Annotated[int, Meta(ge=0, le=50_000_000)] = 20_000_000


async def broken(query: Broken, balances: View[Balance]) -> str:
    raise KeyError("secret-of-the-house")


async def long(query: Long, balances: View[Balance]) -> str:
    return "x" * query.size


def served_bank(freshness: float | None = None) -> Module:
    """The bank, with commands and queries that are slow, fail or break."""
    return followed_bank(
        freshness,
        decisions=[*DECISIONS, break_down, dawdle],
        queries=[one_balance, some_balances, broken, long],
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
    module = served_bank(freshness)
    return App(module, write_store=write_store, read_store=read_store, settings=settings, pages=pages)


def print_address(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write-store", default="memory:")
    parser.add_argument("--read-store", default="memory:")
    parser.add_argument("--notice", type=float, default=0.0)
    arguments = parser.parse_args()
    app = open_bank(arguments.write_store, arguments.read_store)
    run(serve(app, port=0, limits=SHORT, notice_seconds=arguments.notice, started=print_address))


if __name__ == "__main__":
    main()

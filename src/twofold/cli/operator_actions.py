"""What the commands for operators share: their options, and one action on a key or a partition with its result."""

import asyncio
from collections.abc import Callable, Iterable

import click
from msgspec import structs

from twofold.cli.app_loading import json_option, load_app
from twofold.cli.operator_client import PATIENCE, ActionRequest, ActionResult, OperatorClient, operator_client
from twofold.cli.option_checks import refuse_options
from twofold.cli.output import Exit, emit, printable
from twofold.cli.remote import url_option
from twofold.cli.store_access import StoreUrls, store_options
from twofold.errors import Unavailable

_POLL = 0.1


def action_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of every operator action: `--url`, the stores, `--json`."""
    return url_option(store_options(json_option(command)))


def utf8_words(words: Iterable[str]) -> list[str]:
    """Arguments of the command line as text that stores accept. BadParameter where one is not UTF-8."""
    checked = list(words)
    try:
        "".join(checked).encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("Names and keys on the command line must be UTF-8.") from error
    return checked


def perform(request: ActionRequest, target: str, url: str | None, urls: StoreUrls, *, as_json: bool) -> int:
    """Perform an action through the `serve` at `url`, else in the stores of the app `target`, and report the result.

    The exit code is 3 where the key is still parked, or parked again.
    """
    if url is not None:
        refuse_options(("write_store", "read_store"), "with --url no store is opened here")
    result = asyncio.run(_perform(request, target, url, urls))
    if as_json:
        emit(result)
    else:
        for line in dict.fromkeys(filter(None, [result.outcome, result.parked])):
            click.echo(printable(line))
    return Exit.OK if result.parked is None else Exit.UNHEALTHY


async def _perform(request: ActionRequest, target: str, url: str | None, urls: StoreUrls) -> ActionResult:
    app = load_app(target, urls) if url is None else None
    # To pause or resume something, this process need not follow it.
    followed = [] if request.what in ("pause", "resume") else [request.name]
    async with operator_client(app, followed, url) as client:
        result = await client.act(request)
        if request.field != "key":
            return result
        return structs.replace(result, parked=await _still_parked(client, request, result.position))


async def _still_parked(client: OperatorClient, request: ActionRequest, position: int) -> str | None:
    """Where and why the key is parked now. A skip is recorded before it is applied, so this waits for it."""
    deadline = client.world.monotonic() + PATIENCE
    while True:
        parked = (await client.status(request.name, str(request.subject))).parked
        if parked is None:
            return None
        if request.what != "skip" or parked.position != position:
            return f"It is parked at position {parked.position}: {parked.error}"
        if client.world.monotonic() >= deadline:
            raise Unavailable(
                f"The skip of the event at {position} is recorded, but no node has applied it within {PATIENCE:g} s."
            )
        await client.world.sleep(_POLL)

"""In charge of `twofold parked`: keys that were set aside are folded again, or go on behind the event they fail at."""

import asyncio

import click

from twofold.app import App
from twofold.cli.app_loading import json_option, store_option, views_option
from twofold.cli.operator_actions import PATIENCE, Wish, act_by_request, act_by_visit, told, words_of
from twofold.cli.remote import url_option
from twofold.synchronization.cluster_state import OperatorAction


@click.command
@click.argument("what", type=click.Choice(["retry", "skip"]), metavar="retry|skip")
@click.argument("words", nargs=-1, metavar="[MODULE:APP] NAME KEY")
@url_option
@store_option
@views_option
@json_option
def command(
    what: str, words: tuple[str, ...], url: str | None, write_store: str | None, read_store: str | None, as_json: bool
) -> int:
    """Retry or skip what a projection or policy NAME has set aside as KEY.

    \b
    retry  fold the key again from the event it stopped at, once what failed there is mended
    skip   pass over that event for this key, for good, and go on with those that wait behind it

    `twofold projections` shows what is parked. With MODULE:APP the stores are opened; on SQLite a running `serve`
    holds them, so ask it with --url instead. What was done is on record: `twofold projections --acts`. Exits with 3
    where the key is set aside still, or again.
    """
    given = words_of(words)
    if len(given) != 3 and not (url and len(given) == 2):
        raise click.UsageError("Write MODULE:APP NAME KEY, or with --url only NAME KEY.")
    name, key = given[-2:]
    wish = Wish(what, name, "key", key)
    done = act_by_request(url, wish) if url else act_by_visit(given[0], write_store, read_store, wish, _do)
    return told(asyncio.run(done), as_json=as_json)


async def _do(app: App, wish: Wish, actor: str | None) -> OperatorAction:
    do = app.projections.retry if wish.what == "retry" else app.projections.skip
    return await do(wish.name, wish.subject, actor=actor, timeout=PATIENCE)

"""In charge of `twofold partitions`: a projection is parted among more followers, or fewer, while it goes on."""

import asyncio

import click

from twofold.app import App
from twofold.cli.app_loading import json_option, store_option, views_option
from twofold.cli.operator_actions import PATIENCE, Wish, act_by_request, act_by_visit, told, words_of
from twofold.cli.remote import url_option
from twofold.read_store.partition import WHOLE, partition_named
from twofold.synchronization.cluster_state import OperatorAction


@click.command
@click.argument("what", type=click.Choice(["split", "merge"]), metavar="split|merge")
@click.argument("words", nargs=-1, metavar="[MODULE:APP] NAME [PARTITION]")
@url_option
@store_option
@views_option
@json_option
def command(
    what: str, words: tuple[str, ...], url: str | None, write_store: str | None, read_store: str | None, as_json: bool
) -> int:
    """Split a partition of the projection NAME in two, or merge it with the one behind it.

    \b
    split  PARTITION, or the whole where it is in one piece; each half has a follower of its own
    merge  PARTITION and the one behind it

    `twofold projections` shows the partitions, e.g. 0-2048. No event is lost or taken twice meanwhile. With MODULE:APP
    the stores are opened; on SQLite a running `serve` holds them, so ask it with --url instead.
    """
    given = words_of(words)
    partition = given.pop() if len(given) > 1 and _is_partition(given[-1]) else None
    if len(given) != 2 and not (url and len(given) == 1):
        raise click.UsageError("Write MODULE:APP NAME PARTITION, or with --url only NAME PARTITION.")
    if partition is None and what == "merge":
        raise click.UsageError("Say which partition is to be merged with the one behind it, e.g. 0-2048.")
    wish = Wish(what, given[-1], "partition", partition or WHOLE.name)
    done = act_by_request(url, wish) if url else act_by_visit(given[0], write_store, read_store, wish, _do)
    return told(asyncio.run(done), as_json=as_json)


def _is_partition(word: str) -> bool:
    try:
        partition_named(word)
    except ValueError:
        return False
    return True


async def _do(app: App, wish: Wish, actor: str | None) -> OperatorAction:
    do = app.projections.split if wish.what == "split" else app.projections.merge
    return await do(wish.name, wish.subject, actor=actor, timeout=PATIENCE)

"""`twofold partitions`: split or merge the partitions of a projection while it runs."""

from typing import Literal

import click

from twofold.cli.operator_actions import action_options, perform, utf8_words
from twofold.cli.operator_client import ActionRequest
from twofold.cli.store_access import StoreUrls
from twofold.read_store.partition import WHOLE, partition_named


@click.command
@click.argument("what", type=click.Choice(["split", "merge"]), metavar="split|merge")
@click.argument("words", nargs=-1, metavar="[MODULE:APP] NAME [PARTITION]")
@action_options
def command(
    what: Literal["split", "merge"], words: tuple[str, ...], url: str | None, urls: StoreUrls, as_json: bool
) -> int:
    """Split a partition of the projection NAME in two, or merge it with the next one.

    \b
    split  PARTITION, or the whole projection; two nodes can then follow the two halves
    merge  PARTITION and the next one

    `twofold projections` shows the partitions, e.g. 0-2048. Meanwhile no event is lost or applied twice. With
    MODULE:APP this command opens the stores. On SQLite a running `serve` holds them, so use --url instead.
    """
    given = utf8_words(words)
    partition = given.pop() if len(given) > 1 and _is_partition(given[-1]) else None
    if len(given) != (1 if url else 2):
        raise click.UsageError("Write MODULE:APP NAME PARTITION, or with --url only NAME PARTITION.")
    if partition is None and what == "merge":
        raise click.UsageError("Name the partition to merge with the next one, e.g. 0-2048.")
    request = ActionRequest(what, given[-1], partition or WHOLE.name)
    return perform(request, given[0], url, urls, as_json=as_json)


def _is_partition(word: str) -> bool:
    try:
        partition_named(word)
    except ValueError:
        return False
    return True

"""`twofold pause`: stop following for a projection or policy until it is resumed."""

import click

from twofold.cli.operator_actions import action_options, perform, utf8_words
from twofold.cli.operator_client import ActionRequest
from twofold.cli.store_access import StoreUrls


@click.command
@click.argument("words", nargs=-1, metavar="[MODULE:APP] NAME")
@click.option("--reason", metavar="TEXT", default="", help="Why, for those who see that it is paused.")
@action_options
def command(words: tuple[str, ...], reason: str, url: str | None, urls: StoreUrls, as_json: bool) -> int:
    """Pause the projection or policy NAME on all nodes, until `twofold resume`.

    It keeps its place, also across restarts, and holds up no other. A read model answers as of that place; a policy
    sends nothing, also not what is due. `twofold projections` shows what is paused. With MODULE:APP this command opens
    the stores. On SQLite a running `serve` holds them, so use --url instead.
    """
    given = utf8_words(words)
    if len(given) != 2 and not (url and len(given) == 1):
        raise click.UsageError("Write MODULE:APP NAME, or with --url only NAME.")
    (reason,) = utf8_words([reason])
    return perform(ActionRequest("pause", given[-1], reason), given[0], url, urls, as_json=as_json)

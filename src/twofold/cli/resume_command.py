"""`twofold resume`: let a paused projection or policy go on."""

import click

from twofold.cli.operator_actions import action_options, perform, utf8_words
from twofold.cli.operator_client import ActionRequest
from twofold.cli.store_access import StoreUrls


@click.command
@click.argument("words", nargs=-1, metavar="[MODULE:APP] NAME")
@click.option(
    "--skip",
    type=click.IntRange(1),
    metavar="POSITION",
    help="Leave out this event, before which a policy has paused itself.",
)
@action_options
def command(words: tuple[str, ...], skip: int | None, url: str | None, urls: StoreUrls, as_json: bool) -> int:
    """Resume the paused projection or policy NAME from its place.

    A policy pauses itself before an event whose answer is beyond `max_causation_depth`, which is usually a loop of
    policies. Fix them, or raise that setting, and restart; then resume it. Or leave the event out with --skip. With
    MODULE:APP this command opens the stores. On SQLite a running `serve` holds them, so use --url instead.
    """
    given = utf8_words(words)
    if len(given) != 2 and not (url and len(given) == 1):
        raise click.UsageError("Write MODULE:APP NAME, or with --url only NAME.")
    return perform(ActionRequest("resume", given[-1], skip), given[0], url, urls, as_json=as_json)

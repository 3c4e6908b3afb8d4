"""`twofold parked`: fold parked keys again, or skip the event they fail at."""

from typing import Literal

import click

from twofold.cli.operator_actions import action_options, perform, utf8_words
from twofold.cli.operator_client import ActionRequest
from twofold.cli.store_access import StoreUrls


@click.command
@click.argument("what", type=click.Choice(["retry", "skip"]), metavar="retry|skip")
@click.argument("words", nargs=-1, metavar="[MODULE:APP] NAME KEY")
@click.option(
    "--at",
    type=click.IntRange(min=0),
    metavar="POSITION",
    help="Skip only if the key is still parked at this position, as it was shown.",
)
@action_options
def command(
    what: Literal["retry", "skip"],
    words: tuple[str, ...],
    at: int | None,
    url: str | None,
    urls: StoreUrls,
    as_json: bool,
) -> int:
    """Retry or skip the parked KEY of a projection or policy NAME.

    \b
    retry  fold the key again from the event that failed, once the cause is fixed
    skip   leave that event out for this key, for good, and go on with the events that wait behind it

    `twofold projections` shows the parked keys. An event that is parked by position is named as it shows it, for
    example parked:42. With MODULE:APP this command opens the stores. On SQLite a running
    `serve` holds them, so use --url instead. Each action is recorded: `twofold projections --actions`. Exits with 3
    if the key is still parked, or parked again.
    """
    given = utf8_words(words)
    if len(given) != (2 if url else 3):
        raise click.UsageError("Write MODULE:APP NAME KEY, or with --url only NAME KEY.")
    if at is not None and what != "skip":
        raise click.UsageError("--at is for `skip`: a retry begins wherever the key is parked.")
    name, key = given[-2:]
    return perform(ActionRequest(what, name, key, at), given[0], url, urls, as_json=as_json)

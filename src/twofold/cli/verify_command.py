"""`twofold verify`: check a log for damage, and whether the code can read what is stored."""

import asyncio
import re

import click

from twofold.app import App
from twofold.cli.app_loading import json_option, load_app
from twofold.cli.output import Exit, emit, printable
from twofold.cli.progress_bar import progress_bar
from twofold.cli.store_access import StoreUrls, opened_log, write_store_option
from twofold.operations.verify import VerifyResult, verify
from twofold.settings import Settings
from twofold.world import RealWorld


def _expected(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[int, str]:
    digests: dict[int, str] = {}
    for value in values:
        position, colon, digest = value.partition(":")
        if not (colon and position.isascii() and position.isdecimal() and re.fullmatch("[0-9a-f]{16}", digest)):
            raise click.BadParameter(f"'{value}' is not a position and a digest, like 1200:9f2c66d1a0b3c4d5.")
        digests[int(position)] = digest
    return digests


@click.command
@click.option("--from", "first", metavar="POSITION", type=click.IntRange(1), default=1, help="Start here. [default: 1]")
@click.option("--to", "last", metavar="POSITION", type=click.IntRange(1), help="End here. [default: the head]")
@click.option("--decode-all", "target", metavar="MODULE:APP", help="Also read every event with the code of this app.")
@click.option(
    "--expect",
    "expected",
    metavar="POSITION:DIGEST",
    multiple=True,
    callback=_expected,
    help="Also compare the digest at a position with this one, kept elsewhere.",
)
@write_store_option
@json_option
def command(
    first: int,
    last: int | None,
    target: str | None,
    expected: dict[int, str],
    write_store: str | None,
    as_json: bool,
) -> int:
    """Check a log for damage: every event, the chain, the index of tags, command ids, the head, the file.

    It reads beside a running `serve` and changes nothing. If it is interrupted, go on with --from. With --decode-all
    it also fails if the code cannot read what is stored: run it in CI before a deployment. With --expect it also finds
    a log that was rewritten and linked again: keep the digest of the last line elsewhere. Exits with 3 if something is
    wrong.
    """
    urls = StoreUrls(write_store)
    app = load_app(target, urls) if target else None
    result = asyncio.run(_verify(app, app.settings if app else urls.settings(), (first, last), expected))
    if as_json:
        emit(result)
    else:
        _print(result)
    return Exit.OK if result.all_right else Exit.UNHEALTHY


async def _verify(
    app: App | None, settings: Settings, positions: tuple[int, int | None], expected: dict[int, str]
) -> VerifyResult:
    first, last = positions
    world = RealWorld()
    async with opened_log(settings, world) as log:
        with progress_bar("Verifying", "events", world) as on_progress:
            return await verify(log, world, app=app, first=first, last=last, expected=expected, on_progress=on_progress)


def _print(result: VerifyResult) -> None:
    for damage in result.damages:
        click.echo(printable(f"  {damage.message}"))
    if result.damage_count > len(result.damages):
        click.echo(f"  … and {result.damage_count - len(result.damages):,} more.")
    for each in result.unreadable:
        where = f"'{each.type}' version {each.version}: {each.count:,} events, the first at position {each.position}"
        click.echo(printable(f"  This code cannot read {where}: {each.message}"))
    click.echo(
        f"Verified {result.events:,} events ({result.first} to {result.last} of {result.head}), {result.entries:,} "
        f"index entries, {result.commands:,} command ids: {_verdict(result)} The digest at {result.last} is "
        f"{result.digest}."
    )


def _verdict(result: VerifyResult) -> str:
    if result.all_right:
        return "all right."
    damaged = f"{result.damage_count:,} damages" if result.damage_count else "no damage"
    return f"{damaged}, {sum(each.count for each in result.unreadable):,} events that this code cannot read."

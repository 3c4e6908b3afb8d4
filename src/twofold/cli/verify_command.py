"""`twofold verify`: check a log for damage, and whether the code can read what is stored."""

import asyncio
import re
from pathlib import Path
from typing import NamedTuple

import click

from twofold.app import App
from twofold.cli.app_loading import json_option, load_app
from twofold.cli.output import Exit, emit, printable
from twofold.cli.progress_bar import progress_bar
from twofold.cli.store_access import StoreUrls, opened_log, write_store_option
from twofold.operations.signed_checkpoint import SignedCheckpoint, read_checkpoint, read_key, write_checkpoint
from twofold.operations.verify import VerifyResult, checkpoint_of, verify
from twofold.settings import Settings
from twofold.world import RealWorld

_FILE = click.Path(dir_okay=False, path_type=Path)


def _expected(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[int, str]:
    digests: dict[int, str] = {}
    for value in values:
        position, colon, digest = value.partition(":")
        if not (colon and position.isascii() and position.isdecimal() and re.fullmatch("[0-9a-f]{16}", digest)):
            raise click.BadParameter(f"'{value}' is not a position and a digest, like 1200:9f2c66d1a0b3c4d5.")
        digests[int(position)] = digest
    return digests


class _Checkpoints(NamedTuple):
    """The signed checkpoints that a log is compared with, and the file where the next one is written."""

    kept: list[SignedCheckpoint]
    written: Path | None
    key: bytes

    @classmethod
    def of(cls, kept: tuple[Path, ...], written: Path | None, key: Path | None) -> "_Checkpoints":
        """Read them. WiringError where one is not signed with the key."""
        if not kept and written is None:
            return cls([], None, b"")
        if key is None:
            raise click.UsageError("Signed checkpoints need their key: name its file with --key.")
        if written is not None and written.exists() and written not in kept:
            raise click.BadParameter(
                f"{written} exists. Name it with --checkpoint too, so that the log is compared before it is replaced.",
                param_hint="--write-checkpoint",
            )
        secret = read_key(key)
        return cls([read_checkpoint(path, secret) for path in kept], written, secret)


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
@click.option(
    "--checkpoint",
    "kept",
    metavar="FILE",
    type=_FILE,
    multiple=True,
    help="Also compare the log with a signed checkpoint, kept elsewhere.",
)
@click.option(
    "--write-checkpoint", "written", metavar="FILE", type=_FILE, help="Write a signed checkpoint if all is right."
)
@click.option("--key", metavar="FILE", type=_FILE, help="The key of the signed checkpoints, at least 32 bytes.")
@write_store_option
@json_option
def command(
    first: int,
    last: int | None,
    target: str | None,
    expected: dict[int, str],
    kept: tuple[Path, ...],
    written: Path | None,
    key: Path | None,
    write_store: str | None,
    as_json: bool,
) -> int:
    """Check a log for damage: every event, the chain, the index of tags, command ids, the head, the file.

    It reads beside a running `serve` and changes nothing. If it is interrupted, go on with --from. With --decode-all
    it also fails if the code cannot read what is stored: run it in CI before a deployment. With --expect or
    --checkpoint it also finds a log that was rewritten and linked again: keep the digest of the last line, or a signed
    checkpoint, elsewhere. Exits with 3 if something is wrong.
    """
    urls = StoreUrls(write_store)
    app = load_app(target, urls) if target else None
    if written is not None and first > 1:
        raise click.BadParameter("A checkpoint needs the whole log.", param_hint="--from")
    checkpoints = _Checkpoints.of(kept, written, key)
    settings = app.settings if app else urls.settings()
    result = asyncio.run(_verify(app, settings, (first, last), expected, checkpoints))
    if as_json:
        emit(result)
    else:
        _print(result)
    return Exit.OK if result.all_right else Exit.UNHEALTHY


async def _verify(
    app: App | None,
    settings: Settings,
    positions: tuple[int, int | None],
    expected: dict[int, str],
    checkpoints: "_Checkpoints",
) -> VerifyResult:
    first, last = positions
    world = RealWorld()
    async with opened_log(settings, world) as log:
        with progress_bar("Verifying", "events", world) as on_progress:
            result = await verify(
                log,
                world,
                app=app,
                first=first,
                last=last,
                expected=expected,
                checkpoints=checkpoints.kept,
                on_progress=on_progress,
            )
        if checkpoints.written is not None and result.all_right:
            write_checkpoint(checkpoints.written, await checkpoint_of(log, result, world, checkpoints.key))
        return result


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
        f"index entries, {result.commands:,} command ids, {result.rows:,} rows: {_verdict(result)} The digest at "
        f"{result.last} is {result.digest}."
    )


def _verdict(result: VerifyResult) -> str:
    if result.all_right:
        return "all right."
    damaged = f"{result.damage_count:,} damages" if result.damage_count else "no damage"
    return f"{damaged}, {sum(each.count for each in result.unreadable):,} events that this code cannot read."

"""`twofold move`: move a log to another write store, or keep a copy of it there."""

import asyncio
import signal
from collections.abc import Callable

import click
import msgspec

from twofold.cli.app_loading import json_option
from twofold.cli.output import Exit, emit, printable
from twofold.cli.progress_bar import progress_bar
from twofold.cli.remote import Remote, url_option
from twofold.cli.store_access import refuse_memory_place
from twofold.domain.events import Position
from twofold.errors import Unavailable, WiringError
from twofold.log_moving import take_into_use
from twofold.online_move import MoveStatus
from twofold.operations.move import MoveResult, keep_copy, move
from twofold.stores import place_of, sqlite_path_of, without_password
from twofold.world import RealWorld

_POLL = 0.2


class CopyInUse(msgspec.Struct, frozen=True):
    """The log that a copy has become, with its new epoch and its head."""

    log: str
    epoch: int
    head: Position


@click.command
@click.option("--from", "source", metavar="URL", help="The write store that has the log.")
@click.option("--to", "target", metavar="URL", required=True, help="The write store that the log is moved to: empty.")
@click.option("--follow", is_flag=True, help="Keep a copy up to date until this is stopped; the log stays where it is.")
@click.option("--complete", is_flag=True, help="Take such a copy into use without its log, which is lost.")
@click.option("--abandon", is_flag=True, help="With --complete: although its log is still there.")
@url_option
@json_option
def command(
    source: str | None, target: str, follow: bool, complete: bool, abandon: bool, url: str | None, as_json: bool
) -> int:
    """Move a log to another write store, for example from SQLite to PostgreSQL.

    With --url the running `serve` moves its log while commands go on: they wait for less than a second at the end. With
    --from the log is moved without an app. Events with their positions, command ids and the state of policies are
    copied, each event checked; then the old log ends, and names the new place. Start the app there from now on. A move
    that was interrupted goes on if you repeat it. For PostgreSQL, create the schema with `twofold migrate` first.

    With --follow the log stays what it is, and the copy is kept for the case that it is lost: then --complete makes the
    copy a log.
    """
    _refuse_senseless(source, follow=follow, complete=complete, url=url)
    if abandon and not complete:
        raise click.BadOptionUsage("--abandon", "--abandon has an effect only with --complete. Leave it out.")
    refuse_memory_place(target, "--to")
    if complete:
        return _complete(target, abandon=abandon, as_json=as_json)
    if url is not None:
        return _by_server(Remote(url), target, as_json=as_json)
    assert source is not None
    refuse_memory_place(source, "--from")
    if follow:
        return _follow(source, target, as_json=as_json)
    result = asyncio.run(_move(source, target))
    if as_json:
        emit(result)
    elif result.moved_before:
        click.echo(f"The log was moved there before. It is at position {result.head:,} now, in epoch {result.epoch}.")
        click.echo(f"Start the app with --write-store {without_password(target)}")
    else:
        click.echo(
            f"Copied {result.events:,} events, {result.commands:,} command ids, {result.rows:,} rows. The log ends at "
            f"position {result.head:,} now, in epoch {result.epoch}."
        )
        click.echo(f"Start the app with --write-store {without_password(target)}")
    return Exit.OK


def _refuse_senseless(source: str | None, *, follow: bool, complete: bool, url: str | None) -> None:
    chosen = [name for name, given in (("--follow", follow), ("--complete", complete), ("--url", url)) if given]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} are different things. Use one of them.")
    if source is None and not complete and url is None:
        raise click.UsageError("Name the log with --from, or the running `serve` that has it with --url.")
    if source is not None and (complete or url is not None):
        raise click.BadOptionUsage("--from", f"--from has no effect with {chosen[0]}. Leave it out.")


async def _move(source: str, target: str) -> MoveResult:
    world = RealWorld()
    with progress_bar("Moving", "events", world) as on_progress:
        return await move(source, target, world, on_progress)


def _complete(target: str, *, abandon: bool, as_json: bool) -> int:
    identity, head = asyncio.run(take_into_use(target, RealWorld(), abandon=abandon))
    if as_json:
        emit(CopyInUse(identity.log, identity.epoch, head))
    else:
        click.echo(f"The log {identity.log} goes on after position {head:,}, in epoch {identity.epoch}.")
        click.echo(f"Start the app with --write-store {without_password(target)}, after `twofold recover`.")
    return Exit.OK


def _by_server(server: Remote, target: str, *, as_json: bool) -> int:
    """Let a running app move its log, and wait for the end."""
    # A relative path is that of this process.
    place = target if sqlite_path_of(target) is None else place_of(target)
    status = asyncio.run(_watched(server, place))
    if as_json:
        emit(status)
    else:
        click.echo(
            f"The log is at {printable(status.place)} now, up to position {status.position:,} when it was moved. "
            f"Commands waited {1_000 * (status.pause_seconds or 0):,.0f} ms."
        )
        click.echo("Start the app with that write store from now on.")
    return Exit.OK


async def _watched(server: Remote, place: str) -> MoveStatus:
    world = RealWorld()
    with progress_bar("Moving", "events", world) as on_progress:
        status = msgspec.convert(server.post("/log/move", {"to": place}), MoveStatus)
        while status.state == "following":
            on_progress(status.position, status.head)
            await world.sleep(_POLL)
            status = msgspec.convert(server.get("/log")["move"], MoveStatus)
    if status.state == "failed":
        raise WiringError(f"The log was not moved: {status.error}")
    return status


def _follow(source: str, target: str, *, as_json: bool) -> int:
    position: Position = 0

    def settled(at: Position) -> None:
        nonlocal position
        if not position and not as_json:
            click.echo(f"The copy is complete up to position {at:,}, and follows the log. Ctrl-C stops it.")
        position = at

    def interrupted(error: Unavailable) -> None:
        click.echo(f"The copy does not follow at present: {error}", err=True)

    asyncio.run(_until_stopped(source, target, settled, interrupted))
    if as_json:
        emit({"position": position})
    else:
        click.echo(f"Stopped. The copy has the log up to position {position:,}.")
    return Exit.OK


async def _until_stopped(
    source: str, target: str, settled: Callable[[Position], None], interrupted: Callable[[Unavailable], None]
) -> None:
    following = asyncio.ensure_future(keep_copy(source, target, RealWorld(), settled, interrupted))
    loop = asyncio.get_running_loop()
    for sent in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sent, following.cancel)
    try:
        await following
    except asyncio.CancelledError:
        return

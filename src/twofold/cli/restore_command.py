"""`twofold restore`: a backup becomes the log of an app again."""

import asyncio
from pathlib import Path

import click

from twofold.cli.app_loading import json_option
from twofold.cli.output import Exit, emit, printable
from twofold.cli.progress_bar import progress_bar
from twofold.cli.store_access import refuse_memory_place
from twofold.operations.restore import RestoreOrder, RestoreResult, restore
from twofold.stores import shown, sqlite_path_of
from twofold.world import RealWorld


@click.command
@click.option("--from", "source", metavar="PATH", required=True, help="The backup: a folder, or a file `NAME.tar`.")
@click.option("--to", "target", metavar="URL", required=True, help="The write store to restore the log to.")
@click.option("--read-models-to", metavar="URL", help="Restore the read database of the backup to this SQLite file.")
@click.option("--replace", is_flag=True, help="Replace a log although events of it are lost by that.")
@json_option
def command(source: str, target: str, read_models_to: str | None, replace: bool, as_json: bool) -> int:
    """Restore a log from a backup.

    Everything is verified before anything is replaced; if the command is interrupted, the target is as it was. Stop
    the app first. The restored log begins a new epoch: read models and tokens that are ahead of it are refused. A log
    that has events which the backup does not have is only replaced with --replace. For PostgreSQL, create the schema
    with `twofold migrate` first.
    """
    refuse_memory_place(target, "--to")
    read_models = None
    if read_models_to is not None:
        read_models = sqlite_path_of(read_models_to)
        if read_models is None:
            raise click.BadOptionUsage("--read-models-to", f"{shown(read_models_to)} is not a SQLite file.")
    result = asyncio.run(_restore(Path(source), RestoreOrder(target, read_models, replace)))
    if as_json:
        emit(result)
    else:
        _show(result, target)
    return Exit.OK


async def _restore(source: Path, order: RestoreOrder) -> RestoreResult:
    world = RealWorld()
    with progress_bar("Restoring", "events", world) as on_progress:
        return await restore(source, order, world, on_progress)


def _show(result: RestoreResult, target: str) -> None:
    click.echo(
        f"Restored the log {result.log} to {printable(shown(target))} up to position {result.position:,}: "
        f"{result.events:,} events, {result.commands:,} command ids, {result.rows:,} rows. It begins epoch "
        f"{result.epoch}."
    )
    if result.read_models is not None:
        click.echo(
            printable(
                f"The read models of the backup were not restored: {result.read_models} They are rebuilt from the log. "
                "If the present ones are ahead of it, accept the log with `twofold recover`."
            )
        )
    if (lost := result.lost) is not None:
        click.echo(f"Lost of the log {lost.log}: {lost.count:,} events, positions {lost.first:,} to {lost.last:,}.")
    if result.unreadable is not None:
        click.echo(printable(f"What was there could not be read: {result.unreadable}"))
    if result.kept is not None:
        click.echo(f"The file that was there is kept as {printable(result.kept)}.")

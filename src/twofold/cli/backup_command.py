"""`twofold backup`: a consistent copy of a log that is in use, and the drill that proves it can be restored."""

import asyncio
from pathlib import Path

import click

from twofold.cli.app_loading import json_option
from twofold.cli.option_checks import refuse_options
from twofold.cli.output import Exit, emit, printable
from twofold.cli.progress_bar import progress_bar
from twofold.cli.store_access import StoreUrls, opened_log, store_options
from twofold.operations.backup import BackupResult, BackupWork, backup
from twofold.operations.restore import CheckResult, check
from twofold.settings import Settings
from twofold.stores import shown, sqlite_path_of
from twofold.world import RealWorld


@click.command
@click.option("--to", "target", metavar="PATH", help="A folder, which gets what is new; or a new file, `NAME.tar`.")
@click.option("--with-read-models", is_flag=True, help="Copy the read database too. Only where it is a SQLite file.")
@click.option("--check", "checked", metavar="PATH", help="Restore this backup into a temporary folder and verify it.")
@store_options
@json_option
def command(urls: StoreUrls, target: str | None, with_read_models: bool, checked: str | None, as_json: bool) -> int:
    """Back up a log while its app runs, or check a backup.

    With --to, a folder that has a backup already gets only the events that are new. What was added is read back and
    verified before the backup counts; if the command is interrupted, the backup stays as it was. With --check nothing
    is changed: the backup is restored into a temporary folder, and the command exits with 3 if that is not right.
    """
    if (target is None) == (checked is None):
        raise click.UsageError("Name either the place of the backup with --to, or a backup to check with --check.")
    if checked is not None:
        because = "--check works on the backup alone"
        refuse_options(("write_store", "read_store", "with_read_models"), because)
        return _report_check(asyncio.run(_check(Path(checked))), as_json)
    assert target is not None
    settings = urls.settings()
    read_models = _read_models(settings) if with_read_models else None
    result = asyncio.run(_backup(settings, Path(target), read_models))
    if as_json:
        emit(result)
    else:
        click.echo(f"Added {result.position - result.added_after:,} events in {result.added_size:,} bytes.")
        click.echo(f"{printable(target)} has the log {result.log} up to position {result.position:,}.")
    return Exit.OK


def _read_models(settings: Settings) -> str:
    path = sqlite_path_of(settings.read_store)
    if path is None:
        raise click.BadOptionUsage(
            "--with-read-models",
            f"The read store {shown(settings.read_store)} is not a SQLite file. Leave out --with-read-models: read "
            "models are rebuilt from the log.",
        )
    return path


async def _backup(settings: Settings, target: Path, read_models: str | None) -> BackupResult:
    world = RealWorld()
    async with opened_log(settings, world) as log:
        with progress_bar("Backing up", "events or pages", world) as on_progress:
            return await backup(log, target, BackupWork(read_models, world, on_progress))


async def _check(path: Path) -> CheckResult:
    world = RealWorld()
    with progress_bar("Restoring", "events", world) as on_progress:
        return await check(path, world, on_progress)


def _report_check(result: CheckResult, as_json: bool) -> int:
    if as_json:
        emit(result)
    elif result.problem is not None:
        click.echo(printable(f"This backup cannot be restored. {result.problem}"))
    else:
        click.echo(f"Restored the log {result.log} up to position {result.position:,}, as it was at {result.taken_at}:")
        click.echo(
            f"{result.events:,} events, {result.commands:,} command ids, {result.rows:,} rows. All of it is right."
        )
    return Exit.OK if result.problem is None else Exit.UNHEALTHY

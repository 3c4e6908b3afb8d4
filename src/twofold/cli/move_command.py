"""`twofold move`: copy a whole log from one write store to another."""

import asyncio

import click
from msgspec import structs

from twofold.cli.app_loading import json_option
from twofold.cli.output import Exit, emit
from twofold.cli.progress_bar import progress_bar
from twofold.cli.store_access import opened_log, refuse_memory
from twofold.operations.move import MoveResult, move
from twofold.settings import Settings
from twofold.stores import without_password
from twofold.world import RealWorld


@click.command
@click.option("--from", "source", metavar="URL", required=True, help="The write store that has the log.")
@click.option("--to", "target", metavar="URL", required=True, help="The empty write store that the log is copied to.")
@json_option
def command(source: str, target: str, as_json: bool) -> int:
    """Move a log to another write store, for example from SQLite to PostgreSQL.

    Copies events with their positions, command ids and the state of policies, then compares the copy with the
    original. The copy counts only if they are equal. Stop the app first, and start it on the new store: read models
    and receipts stay valid. The old log is not changed; keep it as a backup. For PostgreSQL, create the schema with
    `twofold migrate` first.
    """
    refuse_memory(source, "--from")
    refuse_memory(target, "--to")
    result = asyncio.run(_move(source, target))
    if as_json:
        emit(result)
    else:
        click.echo(
            f"Copied {result.head:,} events, {result.commands:,} command ids, {result.rows:,} rows, and compared them."
        )
        click.echo(f"Start the app with --write-store {without_password(target)}")
    return Exit.OK


async def _move(source: str, target: str) -> MoveResult:
    world = RealWorld()
    old, new = (structs.replace(Settings(), write_store=url) for url in (source, target))
    # Open it read-only first, so that a missing file is not created.
    async with opened_log(old, world):
        pass
    async with opened_log(old, world, read_only=False) as log, opened_log(new, world, read_only=False) as copy:
        with progress_bar("Moving", "events", world) as on_progress:
            return await move(log, copy, on_progress)

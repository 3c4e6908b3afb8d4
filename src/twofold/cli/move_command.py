"""In charge of `twofold move`: a whole log, from one write store to another."""

import asyncio

import click

from twofold.cli.app_loading import json_option, refuse_memory
from twofold.cli.output import Exit, emit
from twofold.cli.progress_bar import Bar
from twofold.operations.move import Moved, move
from twofold.settings import Settings
from twofold.stores import open_write_store, without_password
from twofold.world import RealWorld


@click.command
@click.option("--from", "source", metavar="URL", required=True, help="The write store that holds the log.")
@click.option("--to", "target", metavar="URL", required=True, help="The write store it goes to, which is empty yet.")
@json_option
def command(source: str, target: str, as_json: bool) -> int:
    """Move a log to another write store, for example from SQLite to PostgreSQL.

    Events with their positions, command ids, the books of policies: everything is copied, then compared, and counts
    only then. Stop the app first, and start it on the new store: read models and receipts go on as they were. The old
    log stays where it is; keep it as a backup. Make a schema in PostgreSQL with `twofold migrate` first.
    """
    refuse_memory(source, "--from")
    refuse_memory(target, "--to")
    moved = asyncio.run(_move(source, target))
    if as_json:
        emit(moved)
    else:
        click.echo(f"{moved.head:,} events, {moved.commands:,} command ids and {moved.rows:,} rows are at")
        click.echo(f"  {without_password(target)}")
        click.echo("compared with what they were copied from. Start the app with that as its --write-store.")
    return Exit.OK


async def _move(source: str, target: str) -> Moved:
    world, settings = RealWorld(), Settings()
    # For reading first: a file that is not there is not to be made.
    await (await open_write_store(source, settings, world, read_only=True)).close()
    old = await open_write_store(source, settings, world)
    try:
        new = await open_write_store(target, settings, world)
        try:
            with Bar("Moving", "events", world) as bar:
                return await move(old, new, bar.reached)
        finally:
            await new.close()
    finally:
        await old.close()

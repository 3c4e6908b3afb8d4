"""In charge of `twofold reindex`: old events found by the tags their types have got since."""

import asyncio

import click

from twofold.app import App
from twofold.cli.app_loading import app_argument, json_option, load_app, refuse_memory, store_option
from twofold.cli.output import Exit, emit
from twofold.cli.progress_bar import Bar
from twofold.operations.reindex import Reindexed, reindex
from twofold.stores import open_write_store


@click.command
@app_argument
@store_option
@json_option
def command(target: str, write_store: str | None, as_json: bool) -> int:
    """Index old events by tags their types got later.

    The app refuses to start until this is done: its rules would miss the old events. Nothing else may write
    meanwhile, so stop `serve` first. Broken off, it can be run again; events that are done are not done twice.
    """
    app = load_app(target, write_store=write_store)
    refuse_memory(app.settings.write_store, "--write-store")
    done = asyncio.run(_reindex(app))
    if as_json:
        emit(done)
        return Exit.OK
    if not done.types:
        click.echo("Every event is found by all its tags. Nothing to do.")
    for name, kinds in done.types.items():
        click.echo(f"'{name}' events are found by {', '.join(kinds)} now.")
    if done.types:
        click.echo(f"{done.looked_at:,} events looked at, {done.retagged:,} given tags.")
    return Exit.OK


async def _reindex(app: App) -> Reindexed:
    write_store = await open_write_store(app.settings.write_store, app.settings, app.world)
    try:
        with Bar("Indexing", "positions", app.world) as bar:
            return await reindex(app, write_store, bar.reached)
    finally:
        await write_store.close()

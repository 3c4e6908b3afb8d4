"""`twofold reindex`: give old events the tags that their types got later."""

import asyncio

import click

from twofold.app import App
from twofold.cli.app_loading import app_argument, json_option, load_app
from twofold.cli.output import Exit, emit
from twofold.cli.progress_bar import progress_bar
from twofold.cli.store_access import StoreUrls, opened_log, write_store_option
from twofold.operations.reindex import ReindexResult, reindex


@click.command
@app_argument
@write_store_option
@json_option
def command(target: str, write_store: str | None, as_json: bool) -> int:
    """Give old events the tags that their types got later.

    The app does not start until this is done, because its decisions would miss old events. Stop `serve` first:
    nothing else may write to the log meanwhile. If it is interrupted, repeat it; finished events are not written
    again.
    """
    result = asyncio.run(_reindex(load_app(target, StoreUrls(write_store))))
    if as_json:
        emit(result)
        return Exit.OK
    for name, kinds in result.types.items():
        click.echo(f"'{name}' events now have the tags {', '.join(kinds)}.")
    if result.types:
        click.echo(f"{result.looked_at:,} events read, {result.retagged:,} tagged.")
    else:
        click.echo("All events have all their tags. Nothing to do.")
    return Exit.OK


async def _reindex(app: App) -> ReindexResult:
    async with opened_log(app.settings, app.world, read_only=False) as write_store:
        with progress_bar("Indexing", "positions", app.world) as on_progress:
            return await reindex(app, write_store, on_progress)

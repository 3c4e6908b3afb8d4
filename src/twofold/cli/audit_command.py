"""`twofold audit`: compare the rows of a read model with the fold of the log, and repair those that are wrong."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import click
from msgspec import structs

from twofold.app import App
from twofold.cli.app_loading import app_argument, load_app
from twofold.cli.diff_output import print_differences
from twofold.cli.operator_actions import action_options, utf8_words
from twofold.cli.operator_client import ActionRequest, operator_client
from twofold.cli.option_checks import refuse_options
from twofold.cli.output import Exit, emit, printable
from twofold.cli.progress_bar import Bars
from twofold.cli.store_access import StoreUrls, opened_stores
from twofold.operations.audit import AuditResult, Repair, audit


@click.command
@app_argument
@click.argument("name")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Audit only this row. May be repeated.")
@click.option("--repair", is_flag=True, help="Replace each wrong row by the fold of its events.")
@action_options
def command(
    target: str, name: str, keys: tuple[str, ...], repair: bool, url: str | None, urls: StoreUrls, as_json: bool
) -> int:
    """Compare the rows of projection NAME with the fold of the log.

    Reads both stores while other processes use them. A row that is only behind or ahead of the log is not wrong. With
    --repair the node that follows the projection folds each wrong row again and saves it as a newer version, which no
    late write can undo. On SQLite a running `serve` holds the stores, so add --url with its address. Exits with 3 if
    a row is wrong and was not repaired.
    """
    if not repair:
        refuse_options(("url",), "without --repair this process only reads the stores")
    app = load_app(target, urls)
    result = asyncio.run(_audit(app, name, utf8_words(keys), url, repair=repair))
    if as_json:
        emit(result)
    else:
        _print(result)
    return Exit.OK if result.all_right else Exit.UNHEALTHY


async def _audit(app: App, name: str, keys: list[str], url: str | None, *, repair: bool) -> AuditResult:
    async with AsyncExitStack() as stack:
        repair_key: Repair | None = None
        if repair:
            client = await stack.enter_async_context(operator_client(app, [name], url))
            repair_key = lambda name, key: client.act(ActionRequest("repair", name, key))  # noqa: E731
        # A damaged event must not become a row.
        settings = structs.replace(app.settings, check_reads=True)
        stores = await stack.enter_async_context(opened_stores(settings, app.world))
        if keys:
            return await audit(app, *stores, name, keys=keys, repair=repair_key)
        folding, comparing = f"{name}: folding", f"{name}: comparing"
        bars = stack.enter_context(Bars({folding: "events", comparing: "rows"}, app.world))
        on_progress, on_rows = partial(bars.update, folding), partial(bars.update, comparing)
        return await audit(app, *stores, name, repair=repair_key, on_progress=on_progress, on_rows=on_rows)


def _print(result: AuditResult) -> None:
    counts = {
        "right": result.right,
        "different": result.different,
        "missing": result.missing,
        "extra": result.extra,
        "parked": result.parked,
    }
    heading = f"{result.name} (generation {result.generation}): {result.rows:,} rows audited"
    print_differences(heading, counts, result.sample)
    if result.repaired or result.failed:
        click.echo(f"{result.repaired:,} repaired, {result.failed:,} not repaired.")
    for failure in result.failures:
        click.echo(printable(f"  {failure}"))

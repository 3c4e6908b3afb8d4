"""In charge of `twofold audit`: the rows of a read model held against the fold of the log, and mended one by one."""

import asyncio
from contextlib import AsyncExitStack
from urllib.parse import quote

import click

from twofold.app import App
from twofold.cli.app_loading import app_argument, json_option, load_app, refuse_memory, store_option, views_option
from twofold.cli.diff_output import sampled
from twofold.cli.maintenance import visiting
from twofold.cli.operator_actions import who, words_of
from twofold.cli.output import Exit, emit, printable
from twofold.cli.progress_bar import Bar
from twofold.cli.remote import remote, url_option
from twofold.operations.audit import Audited, Repair, audit
from twofold.stores import open_read_store, open_write_store


@click.command
@app_argument
@click.argument("name")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Only this row; may be given several times.")
@click.option("--repair", is_flag=True, help="Put right what is wrong, row by row.")
@url_option
@store_option
@views_option
@json_option
def command(
    target: str,
    name: str,
    keys: tuple[str, ...],
    repair: bool,
    url: str | None,
    write_store: str | None,
    read_store: str | None,
    as_json: bool,
) -> int:
    """Hold the rows of projection NAME against the fold of the log.

    Reads the two stores beside whatever runs on them; nobody has to stop. A row that is only behind, or ahead, is no
    difference. With --repair each row that is wrong is folded anew by whoever follows for it, as one more version that
    no late write undoes; on SQLite a running `serve` holds the stores, so name it with --url as well. Exits with 3
    where something is wrong and was not repaired.
    """
    app = load_app(target, write_store=write_store, read_store=read_store)
    refuse_memory(app.settings.write_store, "--write-store")
    refuse_memory(app.settings.read_store, "--read-store")
    found = asyncio.run(_audit(app, name, words_of(keys), url, repair=repair))
    if as_json:
        emit(found)
    else:
        _tell(found)
    return Exit.OK if found.all_right else Exit.UNHEALTHY


async def _audit(app: App, name: str, keys: list[str], url: str | None, *, repair: bool) -> Audited:
    async with AsyncExitStack() as stack:
        mend: Repair | None = None
        if repair and url is not None:
            mend = _by_request(url)
        elif repair:
            await stack.enter_async_context(visiting(app, [name]))
            mend = _by_visit(app)
        settings = app.settings
        write_store = await open_write_store(settings.write_store, settings, app.world, read_only=True)
        stack.push_async_callback(write_store.close)
        read_store = await open_read_store(settings.read_store, app.world, read_only=True)
        stack.push_async_callback(read_store.close)
        bar = stack.enter_context(Bar(name, "events", app.world))
        return await audit(app, write_store, read_store, name, keys=keys or None, repair=mend, on_progress=bar.reached)


def _by_visit(app: App) -> Repair:
    async def mend(name: str, key: str) -> object:
        return await app.projections.repair(name, key, actor=who())

    return mend


def _by_request(url: str) -> Repair:
    there = remote(url)

    async def mend(name: str, key: str) -> object:
        # In a thread: several are asked for at once, and each is answered once somebody has come to it.
        return await asyncio.to_thread(there.post, f"/projections/{quote(name, safe='')}/repair", {"key": key})

    return mend


def _tell(found: Audited) -> None:
    counts = [
        ("right", found.right),
        ("different", found.different),
        ("missing", found.missing),
        ("too many", found.extra),
        ("parked", found.parked),
    ]
    told = ", ".join(f"{count:,} {word}" for word, count in counts if count or word == "right")
    click.echo(printable(f"{found.name} (generation {found.generation}): {found.rows:,} rows looked at: {told}"))
    for line in sampled(found.sample):
        click.echo(printable(line))
    if found.repaired or found.failed:
        click.echo(f"{found.repaired:,} repaired, {found.failed:,} not.")
    for failure in found.failures:
        click.echo(printable(f"  {failure}"))

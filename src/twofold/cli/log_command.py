"""In charge of `twofold log`: the events as they are kept, read beside whatever writes them."""

import asyncio
from collections.abc import AsyncIterator

import click
import msgspec

from twofold.cli.app_loading import json_option, refuse_memory, store_option
from twofold.cli.output import Exit, emit, printable
from twofold.domain.event_query import ALL_EVENTS, EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent, kebab_case
from twofold.http.event_routes import EventRecord, event_record
from twofold.settings import Settings
from twofold.stores import open_write_store
from twofold.world import RealWorld
from twofold.write_store.port import WriteStore

PAGE = 1_000
LIMIT = 100
RECENT = 10


class Wanted(msgspec.Struct, frozen=True):
    """What is to be shown."""

    query: EventQuery
    after: Position | None
    limit: int | None
    follow: bool
    as_json: bool


@click.command
@store_option
@click.option("--follow", "-f", is_flag=True, help="Go on with events as they come, until Ctrl-C (130).")
@click.option("--type", "types", metavar="NAME", multiple=True, help="Only events of this type. May be repeated: any.")
@click.option("--tag", "tags", metavar="KIND:VALUE", multiple=True, help="Only events with this tag. Repeated: all.")
@click.option(
    "--after",
    type=click.IntRange(0),
    metavar="POSITION",
    help=f"Start behind this position. [default: 0; with --follow: {RECENT} before the head]",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help=f"Show so many events at most. [default: {LIMIT}; with --follow: no limit]",
)
@json_option
def command(
    write_store: str | None,
    follow: bool,
    types: tuple[str, ...],
    tags: tuple[str, ...],
    after: int | None,
    limit: int | None,
    as_json: bool,
) -> int:
    """Show the events of the log, and follow it.

    Each with its position, time, type, tags and payload.

    Reads beside a running `serve`, and changes nothing. With --json: one line with all events, or with --follow one
    line for each.
    """
    for tag in tags:
        if not all(tag.partition(":")[::2]):
            raise click.BadParameter(f"'{tag}' is no tag. Write KIND:VALUE, for example order:o-1.", param_hint="--tag")
    query = EventQuery((QueryItem(types, tags),)) if types or tags else ALL_EVENTS
    url = Settings.from_environment(write_store=write_store).write_store
    refuse_memory(url, "--write-store")
    return asyncio.run(_show(url, Wanted(query, after, limit, follow, as_json)))


async def _show(url: str, wanted: Wanted) -> int:
    world = RealWorld()
    write_store = await open_write_store(url, Settings(), world, read_only=True)
    try:
        await _warn_of_unknown_types(write_store, wanted.query)
        if wanted.follow:
            await _follow(write_store, wanted)
        else:
            await _list(write_store, wanted)
    finally:
        await write_store.close()
    return Exit.OK


async def _list(write_store: WriteStore, wanted: Wanted) -> None:
    limit = wanted.limit or LIMIT
    page = await write_store.read(wanted.query, wanted.after or 0, limit)
    if wanted.as_json:
        events = [event_record(event) for event in page.events]
        emit({"log": write_store.identity.log, "events": events, "upto": page.upto, "head": page.head})
        return
    for event in page.events:
        click.echo(_line(event))
    if not page.events:
        click.echo(f"No such events. The head is {page.head:,}.", err=True)
    elif page.upto < page.head and len(page.events) == limit:
        click.echo(f"The head is {page.head:,}. Go on with --after {page.upto}.", err=True)


async def _follow(write_store: WriteStore, wanted: Wanted) -> None:
    left = wanted.limit
    async for event in _coming(write_store, wanted):
        if wanted.as_json:
            emit(event_record(event))
        else:
            click.echo(_line(event))
        if left is not None:
            left -= 1
            if not left:
                return


async def _coming(write_store: WriteStore, wanted: Wanted) -> AsyncIterator[RecordedEvent]:
    after = wanted.after
    if after is None:
        after = max(0, (await write_store.read(EventQuery())).head - RECENT)
    while True:
        page = await write_store.read(wanted.query, after, PAGE)
        for event in page.events:
            yield event
        if page.upto <= after:
            await write_store.wait(after, 1.0)
        after = max(after, page.upto)


async def _warn_of_unknown_types(write_store: WriteStore, query: EventQuery) -> None:
    """A misspelt type would be waited for in vain."""
    for name in query.items[0].types:
        if not await _is_stored(write_store, name):
            meant = kebab_case(name)
            instead = f" Did you mean {meant}?" if meant != name and await _is_stored(write_store, meant) else ""
            click.echo(f"No event of the type {printable(name)} is stored so far.{instead}", err=True)


async def _is_stored(write_store: WriteStore, name: str) -> bool:
    return bool((await write_store.read(EventQuery((QueryItem((name,)),)), limit=1)).events)


def _line(event: RecordedEvent) -> str:
    seen: EventRecord = event_record(event)
    tags = " ".join(seen.tags)
    payload = event.payload.decode()
    return printable(f"{seen.position:>7}  {seen.time:%Y-%m-%d %H:%M:%S}  {seen.type:<20}  {tags}  {payload}")

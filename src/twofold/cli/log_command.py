"""`twofold log`: show the stored events, beside the process that writes them."""

import asyncio

import click
import msgspec

from twofold.cli.app_loading import json_option
from twofold.cli.output import Exit, emit, printable
from twofold.cli.store_access import StoreUrls, opened_log, write_store_option
from twofold.domain.event_query import ALL_EVENTS, NO_EVENTS, EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent, kebab_case
from twofold.http.event_records import DamagedEvent, EventRecord, damage, damaged_event, event_record
from twofold.settings import Settings
from twofold.world import RealWorld
from twofold.write_store.port import WriteStore

PAGE = 500
LIMIT = 100
RECENT = 10


class LogOptions(msgspec.Struct, frozen=True):
    """Which events to show, and how."""

    query: EventQuery
    after: Position | None
    limit: int | None
    follow: bool
    as_json: bool


@click.command
@write_store_option
@click.option("--follow", "-f", is_flag=True, help="Go on with new events, until Ctrl-C (130).")
@click.option("--type", "types", metavar="NAME", multiple=True, help="Only events of this type; repeat it for several.")
@click.option(
    "--tag",
    "tags",
    metavar="KIND:VALUE",
    multiple=True,
    help="Only events with this tag; repeat it for several.",
)
@click.option(
    "--after",
    type=click.IntRange(0),
    metavar="POSITION",
    help=f"Start after this position. [default: 0; with --follow: {RECENT} before the head]",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help=f"Show at most this many events. [default: {LIMIT}; with --follow: no limit]",
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
    """Show the events of the log: position, time, type, tags and payload.

    Reads beside a running `serve` and changes nothing. --json prints JSON lines: one for each event, and without
    --follow a last one that says how far they go.
    """
    for tag in tags:
        if not all(tag.partition(":")[::2]):
            raise click.BadParameter(f"'{tag}' is not a tag. Write KIND:VALUE, e.g. order:o-1.", param_hint="--tag")
    query = EventQuery((QueryItem(types, tags),)) if types or tags else ALL_EVENTS
    settings = StoreUrls(write_store).settings()
    return asyncio.run(_show(settings, LogOptions(query, after, limit, follow, as_json)))


async def _show(settings: Settings, options: LogOptions) -> int:
    async with opened_log(settings, RealWorld()) as write_store:
        await _warn_of_unknown_types(write_store, options.query)
        await (_follow if options.follow else _list)(write_store, options)
    return Exit.OK


async def _list(write_store: WriteStore, options: LogOptions) -> None:
    """Show events page by page: the log may be larger than the memory."""
    limit = options.limit or LIMIT
    after, left, head = options.after or 0, limit, (await write_store.read(NO_EVENTS)).head
    while left:
        page = await write_store.read(options.query, after, min(PAGE, left))
        for event in page.events:
            _show_event(event, options)
        after, left = page.upto, left - len(page.events)
        # What is written meanwhile is not waited for.
        if after >= head:
            break
    if options.as_json:
        emit({"log": write_store.identity.log, "events": limit - left, "upto": after, "head": max(after, head)})
    elif left == limit:
        click.echo(f"No event matches. The head is {head:,}.", err=True)
    elif after < head:
        click.echo(f"The head is {head:,}. Go on with --after {after}.", err=True)


async def _follow(write_store: WriteStore, options: LogOptions) -> None:
    after, left = options.after, options.limit
    if after is None:
        after = max(0, (await write_store.read(NO_EVENTS)).head - RECENT)
    while True:
        page = await write_store.read(options.query, after, PAGE if left is None else min(PAGE, left))
        for event in page.events:
            _show_event(event, options)
        if left is not None and not (left := left - len(page.events)):
            return
        if page.upto <= after:
            await write_store.wait(after, 1.0)
        after = max(after, page.upto)


def _show_event(event: RecordedEvent, options: LogOptions) -> None:
    if options.as_json:
        emit(_record(event))
    else:
        click.echo(_line(event))


async def _warn_of_unknown_types(write_store: WriteStore, query: EventQuery) -> None:
    """Warn of event types that are not stored, which may be misspelt."""
    for name in query.items[0].types:
        if not await _is_stored(write_store, name):
            meant = kebab_case(name)
            instead = f" Did you mean {meant}?" if meant != name and await _is_stored(write_store, meant) else ""
            click.echo(f"No event of type {printable(name)} is stored yet.{instead}", err=True)


async def _is_stored(write_store: WriteStore, name: str) -> bool:
    return bool((await write_store.read(EventQuery((QueryItem((name,)),)), limit=1)).events)


def _record(event: RecordedEvent) -> EventRecord | DamagedEvent:
    problem = damage(event)
    return event_record(event) if problem is None else damaged_event(event, problem)


def _line(event: RecordedEvent) -> str:
    problem, payload = damage(event), event.payload.decode(errors="backslashreplace")
    if problem is not None:
        return printable(f"{event.position:>7}  DAMAGED: {problem}  {event.type:<20}  {payload}")
    tags = " ".join(event.tags)
    return printable(f"{event.position:>7}  {event.time:%Y-%m-%d %H:%M:%S}  {event.type:<20}  {tags}  {payload}")

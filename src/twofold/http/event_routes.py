"""In charge of `GET /events`: the log, page by page or as it grows."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Any, cast

import msgspec

from twofold.app import App
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import InvalidMessage
from twofold.http.exchange import Exchange
from twofold.http.limits import Deadlines, Lane, Limits, took_too_long
from twofold.http.parameters import Parameter, read_parameters
from twofold.http.routing import Handler
from twofold.http.streams import OPENING, Frames, Streams, frame

MOST_EVENTS = 1_000

PARAMETERS = {
    each.name: each
    for each in (Parameter("after"), Parameter("type", many=True), Parameter("tag", many=True), Parameter("limit"))
}

_encode = msgspec.json.Encoder().encode


class ShownEvent(msgspec.Struct, frozen=True):
    """A recorded event as it is sent. `data` has the shape of `version`; `time` is UTC."""

    position: Position
    id: str
    type: str
    version: int
    time: datetime
    tags: tuple[str, ...]
    data: Any
    actor: str | None
    command_id: str
    correlation_id: str
    causation_id: str | None


class EventPage(msgspec.Struct, frozen=True):
    """Some recorded events in order. `token` is the `after` that continues behind them."""

    events: list[ShownEvent]
    token: str


def events_handler(app: App, limits: Limits, lane: Lane, deadlines: Deadlines, streams: Streams) -> Handler:
    """What reads and follows the log."""

    async def handle(exchange: Exchange) -> None:
        fields = read_parameters(exchange.query_string, PARAMETERS, limits)
        query = _query(app, fields.get("type", []), fields.get("tag", []))
        limit = _limit(fields.get("limit"))
        if exchange.wants_stream:
            token = exchange.text(b"last-event-id") or fields.get("after")
            await streams.serve(exchange, _following(app, query, token))
            return
        with lane:
            page = await deadlines.within(
                limits.request_seconds, _page(app, query, fields.get("after"), limit), took_too_long
            )
        await exchange.json(_encode(page), [(b"twofold-position", page.token.encode())])

    return handle


async def _page(app: App, query: EventQuery, token: str | None, limit: int) -> EventPage:
    found = await app.log(query, await _after(app, token), limit)
    return EventPage([shown(event) for event in found.events], app.token(found.upto))


async def _following(app: App, query: EventQuery, token: str | None) -> Frames:
    after = await _after(app, token)
    yield OPENING
    async with aclosing(cast("Any", app.follow(query, after))) as events:
        async for event in cast("AsyncIterator[RecordedEvent]", events):
            yield frame("event", shown(event), app.token(event.position))


async def _after(app: App, token: str | None) -> Position:
    if not token:
        return 0
    after = app.position_of(token)
    if after and after > (await app.log(after=after, limit=1)).head:
        raise InvalidMessage("This position is beyond the log. Send a token as it came.", field="after")
    return after


def _query(app: App, types: list[str], tags: list[str]) -> EventQuery:
    for each in types:
        if each not in app.wiring.events:
            safe = "".join(c if c.isprintable() else "?" for c in each[:64])
            raise InvalidMessage(
                f"No event is called '{safe}'. There are: {', '.join(sorted(app.wiring.events)) or 'none'}.",
                field="type",
            )
    for each in tags:
        kind, _, value = each.partition(":")
        if not kind or not value or len(each) > 512 or not each.isprintable():
            raise InvalidMessage("A tag is written kind:value, for example order:o-1.", field="tag")
    return EventQuery((QueryItem(tuple(types), tuple(tags)),))


def _limit(told: str | None) -> int:
    if told is None:
        return 100
    if not (told.isascii() and told.isdigit() and len(told) <= 6 and 1 <= int(told) <= MOST_EVENTS):
        raise InvalidMessage(f"limit is a whole number from 1 to {MOST_EVENTS}.", field="limit")
    return int(told)


def shown(event: RecordedEvent) -> ShownEvent:
    metadata = event.metadata
    return ShownEvent(
        event.position,
        event.id,
        event.type,
        event.version,
        event.time,
        event.tags,
        msgspec.Raw(event.payload),
        metadata.actor,
        metadata.command_id,
        metadata.correlation_id,
        metadata.causation_id,
    )

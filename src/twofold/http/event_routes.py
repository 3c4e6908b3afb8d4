"""`GET /events`: the log, page by page, or as a stream as it grows."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import Any, cast

import msgspec

from twofold.app import App
from twofold.codec.edge import printable
from twofold.domain.event_query import EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import InvalidMessage
from twofold.http.exchange import Exchange, Handler
from twofold.http.parameters import QueryParameter, limit_of
from twofold.http.streams import OPENING, Frames, frame
from twofold.http.wire import Wire

MAX_EVENTS = 1_000

_PARAMETERS = {
    "after": QueryParameter("after"),
    "type": QueryParameter("type", many=True),
    "tag": QueryParameter("tag", many=True),
    "limit": QueryParameter("limit"),
}
_encode = msgspec.json.Encoder().encode


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
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
    depth: int


class EventPage(msgspec.Struct, frozen=True):
    """Some recorded events in order. `token` is the `after` of the next page."""

    events: list[EventRecord]
    token: str


def events_handler(wire: Wire) -> Handler:
    app = wire.app

    async def handle(exchange: Exchange) -> None:
        fields = wire.parameters(exchange, _PARAMETERS)
        query = _query(app, fields.get("type", []), fields.get("tag", []))
        limit = limit_of(fields, MAX_EVENTS)
        if exchange.wants_stream:
            token = exchange.text(b"last-event-id") or fields.get("after")
            await wire.streams.serve(exchange, _following(app, query, token))
            return
        with wire.quotas.reads:
            page = await wire.in_time(_page(app, query, fields.get("after"), limit))
        await exchange.json(_encode(page), [(b"twofold-position", page.token.encode())])

    return handle


async def _page(app: App, query: EventQuery, token: str | None, limit: int) -> EventPage:
    part = await app.log(query, await _after(app, token), limit)
    return EventPage([event_record(event) for event in part.events], app.token(part.upto))


async def _following(app: App, query: EventQuery, token: str | None) -> Frames:
    after = await _after(app, token)
    yield OPENING
    async with aclosing(cast("Any", app.follow(query, after))) as events:
        async for event in cast("AsyncIterator[RecordedEvent]", events):
            yield frame("event", event_record(event), app.token(event.position))


async def _after(app: App, token: str | None) -> Position:
    if not token:
        return 0
    after = app.position_of(token)
    if after and after > (await app.log(after=after, limit=1)).head:
        raise InvalidMessage("This position is beyond the end of the log. Send a token unchanged.", field="after")
    return after


def _query(app: App, types: list[str], tags: list[str]) -> EventQuery:
    for name in types:
        if name not in app.wiring.events:
            raise InvalidMessage(
                f"No event is called '{printable(name)}'. Events: {', '.join(sorted(app.wiring.events)) or 'none'}.",
                field="type",
            )
    for tag in tags:
        kind, _, value = tag.partition(":")
        if not kind or not value or len(tag) > 512 or not tag.isprintable():
            raise InvalidMessage("Invalid tag. Write kind:value, for example order:o-1.", field="tag")
    return EventQuery((QueryItem(tuple(types), tuple(tags)),))


def event_record(event: RecordedEvent) -> EventRecord:
    metadata = event.metadata
    return EventRecord(
        position=event.position,
        id=event.id,
        type=event.type,
        version=event.version,
        time=event.time,
        tags=event.tags,
        data=msgspec.Raw(event.payload),
        actor=metadata.actor,
        command_id=metadata.command_id,
        correlation_id=metadata.correlation_id,
        causation_id=metadata.causation_id,
        depth=metadata.depth,
    )

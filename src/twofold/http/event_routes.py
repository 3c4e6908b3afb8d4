"""`GET /events`: the log, page by page, or as a stream as it grows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twofold.app import App
from twofold.codec.edge import printable
from twofold.domain.event_query import NO_EVENTS, EventQuery, QueryItem
from twofold.domain.events import Position, RecordedEvent
from twofold.errors import InvalidMessage
from twofold.http.budgets import SMALL, Holding
from twofold.http.event_records import event_record, page_in_pieces, undamaged
from twofold.http.exchange import PIECE, Exchange, Handler, pieces_of
from twofold.http.parameters import QueryParameter, limit_of, whole_number
from twofold.http.streams import OPENING, Frames, frame
from twofold.http.wire import Wire
from twofold.write_store.chain import chain_digest
from twofold.write_store.port import Slice

MAX_EVENTS = 1_000
MAX_LAST = 1_000_000_000
"""The most positions before the head at which a page or a stream may start."""

_PARAMETERS = {
    "after": QueryParameter("after"),
    "last": QueryParameter("last"),
    "type": QueryParameter("type", many=True),
    "tag": QueryParameter("tag", many=True),
    "limit": QueryParameter("limit"),
}
_STREAM_EVENTS = 500
_STREAM_BYTES = 262_144
"""Events, and their bytes, that a stream reads at once."""
_RECORD_BYTES = 768
"""What an event takes in memory beside its payload."""


def events_handler(wire: Wire) -> Handler:
    app = wire.app

    async def handle(exchange: Exchange) -> None:
        fields = wire.parameters(exchange, _PARAMETERS)
        query = _query(app, fields.get("type", []), fields.get("tag", []))
        limit = limit_of(fields, MAX_EVENTS)
        start = _start(fields, exchange.text(b"last-event-id") if exchange.wants_stream else None)
        holding = wire.budgets.answers.begin()
        if exchange.wants_stream:
            await wire.streams.serve(exchange, _following(wire, query, start, holding), holding)
            return
        with holding.cut_off_here():
            with wire.quotas.reads:
                after = await wire.in_time(_after(app, start))
                page = await wire.in_time(_read(wire, holding, query, after, limit, wire.limits.events_bytes))
            await _send(wire, exchange, page)

    return handle


async def _send(wire: Wire, exchange: Exchange, page: Slice) -> None:
    events = undamaged(page.events)
    whole = len(events) == len(page.events)
    upto, chain = (page.upto, page.chain) if whole else (events[-1].position, events[-1].chain)
    token = wire.app.token(upto, chain_digest(chain))
    headers = [(b"twofold-position", token.encode())]
    pieces = page_in_pieces(events, token, more=upto < page.head)
    if _size(events) <= SMALL:
        await exchange.json(b"".join(pieces), headers)
        return
    await exchange.open_json(headers)
    for encoded in pieces if exchange.method != "HEAD" else ():
        for piece in pieces_of(encoded):
            await exchange.write(piece)
        # To encode a page takes long enough that others on this loop need a turn.
        await wire.app.world.sleep(0)
    await exchange.finish()


async def _following(wire: Wire, query: EventQuery, start: str | int, holding: Holding) -> Frames:
    app = wire.app
    after = await _after(app, start)
    yield OPENING
    while True:
        page = await _read(wire, holding, query, after, _STREAM_EVENTS, _STREAM_BYTES)
        events = undamaged(page.events)
        for piece in _frames(app, events):
            yield piece
            del piece
        if len(events) < len(page.events):
            after = events[-1].position
            continue
        del events
        holding.release()
        if page.upto <= after:
            await app.wait(after)
        after = max(after, page.upto)
        del page


async def _read(wire: Wire, holding: Holding, query: EventQuery, after: Position, limit: int, size: int) -> Slice:
    """A page of at most about `size` bytes, as soon as there is room for it."""
    async with wire.budgets.turns:
        page = await wire.app.log(query, after, limit, size)
        held = _size(page.events) + _RECORD_BYTES * len(page.events)
        if held > SMALL:
            # The events as they are stored, and a piece of them as it is sent.
            await holding.resize_in_turn(held + PIECE + max(len(event.payload) for event in page.events))
        return page


def _frames(app: App, events: Sequence[RecordedEvent]) -> Iterator[bytes]:
    """Events as server-sent events, as many in one piece as fill it: to send each on its own costs several turns of
    the event loop, and the stream would fall behind the log."""
    piece = bytearray()
    for event in events:
        piece += frame("event", event_record(event), app.token(event.position, chain_digest(event.chain)))
        if len(piece) >= PIECE:
            # A large event must not be in memory twice while its client reads.
            full, piece = [bytes(piece)], bytearray()
            yield full.pop()
    if piece:
        yield bytes(piece)


def _size(events: Sequence[RecordedEvent]) -> int:
    return sum(len(event.payload) for event in events)


def _start(fields: Mapping[str, Any], last_event_id: str | None) -> str | int:
    """Where to start: a token, "" for the first event, or how many positions before the head."""
    after, last = fields.get("after", ""), fields.get("last")
    if last is None:
        return last_event_id or after
    if after:
        raise InvalidMessage("`last` and `after` each say where to start. Send one of them.", field="last")
    count = whole_number(last, "last", 0, MAX_LAST)
    # A client that reconnects goes on where it was.
    return last_event_id or count


async def _after(app: App, start: str | int) -> Position:
    if isinstance(start, int):
        return max(0, (await app.log(NO_EVENTS)).head - start)
    return await app.position_of(start, "after") if start else 0


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

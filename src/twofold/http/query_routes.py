"""In charge of `GET /queries/<name>`: a query in, an answer out, once or whenever it has become another."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import msgspec

from twofold.app import Answer, App
from twofold.domain.events import Position
from twofold.http.exchange import Exchange
from twofold.http.limits import Deadlines, Lane, Limits, took_too_long
from twofold.http.parameters import POSITION, Parameter, parameters_of, read_parameters
from twofold.http.routing import Handler
from twofold.http.streams import Frames, Streams, frame

_encode = msgspec.json.Encoder().encode


class QueryAnswer(msgspec.Struct, frozen=True):
    """An answer as it is sent. `position` and `token` say up to where it knows the log; `parked` names the keys set
    aside in the read models it rests on, whose rows may be older."""

    answer: Any
    position: Position
    token: str
    parked: list[str]


def query_handler(app: App, name: str, limits: Limits, lane: Lane, deadlines: Deadlines, streams: Streams) -> Handler:
    """What answers a query of one type. WiringError if its fields cannot be written in a query string."""
    kind = app.queries.by_name[name].query
    known = parameters_of(kind) | {POSITION: Parameter(POSITION)}

    async def handle(exchange: Exchange) -> None:
        fields = read_parameters(exchange.query_string, known, limits)
        position: str | None = fields.pop(POSITION, None)
        if position is None:
            position = exchange.text(b"twofold-position")
        query = app.messages.convert_request(kind, fields)
        if exchange.wants_stream:
            await streams.serve(exchange, _answers(app, query, position))
            return
        with lane:
            answer = await deadlines.within(limits.request_seconds, app.ask(query, position=position), took_too_long)
        await exchange.json(_encode(_shown(answer)), [(b"twofold-position", answer.token.encode())])

    return handle


async def _answers(app: App, query: object, position: str | None) -> Frames:
    if position is not None:
        await app.ask(query, position=position)
    async with aclosing(cast("Any", app.live(query))) as answers:
        async for answer in cast("AsyncIterator[Answer]", answers):
            yield frame("answer", _shown(answer))


def _shown(answer: Answer) -> QueryAnswer:
    return QueryAnswer(answer.value, answer.position, answer.token, answer.parked)

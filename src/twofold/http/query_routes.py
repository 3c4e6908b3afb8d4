"""`GET /queries/<name>`: takes a query, answers it once, or as a stream whenever the answer has changed."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

import msgspec

from twofold.app import App
from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.http.budgets import SMALL, Holding
from twofold.http.exchange import Exchange, Handler
from twofold.http.parameters import POSITION, QueryParameter, parameters_of
from twofold.http.streams import Frames, frame
from twofold.http.wire import Wire
from twofold.receipt import Answer

_encode = msgspec.json.Encoder().encode


class QueryAnswer(msgspec.Struct, frozen=True):
    """An answer as it is sent. `position` and `token` say up to where it knows the log; `parked` names the first
    parked keys of its read models, whose rows may be older; there are `parked_count`."""

    answer: Any
    position: Position
    token: str
    parked: list[str]
    parked_count: int


def query_handler(wire: Wire, name: str) -> Handler:
    """Handles queries of one type. WiringError if its fields cannot be written in a query string."""
    app = wire.app
    kind = app.queries.by_name[name].query
    known = parameters_of(kind) | {POSITION: QueryParameter(POSITION)}

    async def handle(exchange: Exchange) -> None:
        fields = wire.parameters(exchange, known)
        position: str | None = fields.pop(POSITION, None)
        if position is None:
            position = exchange.text(b"twofold-position")
        query = app.messages.convert_request(kind, fields)
        if exchange.wants_stream:
            holding = wire.budgets.answers.begin()
            await wire.streams.serve(exchange, _answers(app, query, position, holding), holding)
            return
        with wire.quotas.reads:
            answer = await wire.in_time(app.ask(query, position=position))
        await exchange.json(_encode(_sent(answer)), [(b"twofold-position", answer.token.encode())])

    return handle


async def _answers(app: App, query: object, position: str | None, holding: Holding) -> Frames:
    if position is not None:
        await app.ask(query, position=position)
    async with aclosing(cast("Any", app.live(query, encoded=True))) as answers:
        async for answer in cast("AsyncIterator[Answer]", answers):
            sent = frame("answer", _sent(answer))
            del answer
            try:
                holding.resize(len(sent) if len(sent) > SMALL else 0)
            except Unavailable:
                # The traceback holds what is here.
                del sent
                raise
            yield sent
            del sent
            holding.release()


def _sent(answer: Answer) -> QueryAnswer:
    return QueryAnswer(answer.value, answer.position, answer.token, answer.parked, answer.parked_count)

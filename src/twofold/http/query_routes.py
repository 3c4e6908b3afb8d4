"""`GET /queries/<name>`: takes a query, answers it once, or as a stream whenever the answer has changed."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

import msgspec

from twofold.app import App
from twofold.domain.events import Position
from twofold.http.budgets import Budget, Holding, SharedHolding
from twofold.http.exchange import Exchange, Handler
from twofold.http.parameters import POSITION, QueryParameter, parameters_of
from twofold.http.streams import Frames, frame
from twofold.http.wire import Wire
from twofold.query_service.answer import ActorQuery
from twofold.query_service.live_queries import Spend
from twofold.receipt import Answer

Render = Callable[[Answer, Spend], "AnswerFrame"]

_encode = msgspec.json.Encoder().encode


class QueryAnswer(msgspec.Struct, frozen=True):
    """An answer as it is sent. `position` and `token` say up to where it knows the log; `parked_count` counts the
    parked keys of its read models, whose rows may be older, and `parked` names the first for those who may inspect."""

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

    def render(answer: Answer, spend: Spend) -> AnswerFrame:
        return AnswerFrame(frame("answer", _sent(answer)), wire.budgets.answers, spend)

    def render_all(answer: Answer, spend: Spend) -> AnswerFrame:
        return AnswerFrame(frame("answer", _sent_all(answer)), wire.budgets.answers, spend)

    async def handle(exchange: Exchange) -> None:
        fields = wire.parameters(exchange, known)
        position: str | None = fields.pop(POSITION, None)
        if position is None:
            position = exchange.text(b"twofold-position")
        query = ActorQuery(app.messages.convert_request(kind, fields), exchange.actor)
        inspects = wire.shows_texts(exchange)
        if exchange.wants_stream:
            holding = wire.budgets.answers.begin()
            rendered = render_all if inspects else render
            await wire.streams.serve(exchange, _answers(app, query, position, rendered, holding), holding)
            return
        with wire.quotas.reads:
            answer = await wire.in_time(app.ask(query.query, actor=query.actor, position=position))
        sent = _sent_all(answer) if inspects else _sent(answer)
        await exchange.json(_encode(sent), [(b"twofold-position", answer.token.encode())])

    return handle


class AnswerFrame:
    """One answer as all streams of equal queries send it."""

    def __init__(self, sent: bytes, budget: Budget, spend: Spend) -> None:
        self.sent = sent
        self.spend = spend
        self.holding = SharedHolding(budget, len(sent))


async def _answers(app: App, query: ActorQuery, position: str | None, render: Render, holding: Holding) -> Frames:
    async with aclosing(app.live(query.query, actor=query.actor, position=position, render=render)) as answers:
        async for answer in cast("AsyncIterator[AnswerFrame]", answers):
            with answer.holding.held_for(holding):
                seconds = yield answer.sent
            answer.spend(seconds or 0.0)
            del answer


def _sent(answer: Answer) -> QueryAnswer:
    # The names of parked keys may be those of rows that the caller must not know.
    return QueryAnswer(answer.value, answer.position, answer.token, [], answer.parked_count)


def _sent_all(answer: Answer) -> QueryAnswer:
    return QueryAnswer(answer.value, answer.position, answer.token, answer.parked, answer.parked_count)

"""`/log`: which log the app uses, and its move to another write store."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

import msgspec

from twofold.access.rules import INSPECT, Right
from twofold.app import App
from twofold.domain.events import Position
from twofold.errors import InvalidMessage, WiringError
from twofold.http.exchange import Exchange, Route
from twofold.http.public_reports import shown_to, texts_for_operators
from twofold.http.wire import Wire
from twofold.online_move import MoveStatus
from twofold.stores import place_of

_encode = msgspec.json.Encoder().encode


class LogReport(msgspec.Struct, frozen=True):
    """The log that the app uses: its name, its epoch and its head, and the write store where it is, without a password.

    `move` is the move that goes on, or the last one that ended since the app has started; null where none was begun.
    """

    log: str
    epoch: int
    head: Position
    place: str
    move: MoveStatus | None


class MoveBody(msgspec.Struct, frozen=True):
    """The URL of the write store to which the log is moved: an empty one, or a copy of this log."""

    to: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000, examples=["sqlite:////var/lib/shop/new.db"])]


def log_routes(wire: Wire) -> Mapping[str, Route]:
    """All routes under `/log`."""
    app = wire.app
    read = wire.body_reader(MoveBody)
    patience = wire.limits.request_seconds / 2

    async def report(exchange: Exchange) -> None:
        wire.parameters(exchange)
        with wire.quotas.reads:
            answer = await wire.in_time(_report(app))
        await exchange.json(_encode(answer))

    async def move(exchange: Exchange) -> None:
        wire.parameters(exchange)
        body = await read(exchange)
        with wire.quotas.commands, texts_for_operators(wire, exchange):
            answer = await wire.in_time(_move(app, body.to, patience))
        await exchange.json(_encode(shown_to(wire, exchange, answer)))

    return {"/log": Route("GET", INSPECT, report), "/log/move": Route("POST", Right("operate", "move-log"), move)}


async def _report(app: App) -> LogReport:
    status = await app.status()
    return LogReport(
        status.log, app.move.identity.epoch, status.head, place_of(app.settings.write_store), app.move.status
    )


async def _move(app: App, to: str, seconds: float) -> MoveStatus:
    """Begin a move, and wait for its end for some seconds."""
    try:
        moving = app.move.start(to)
        await asyncio.wait([moving], timeout=seconds)
        if moving.done():
            return await moving
    except WiringError as error:
        raise InvalidMessage(str(error), field="to") from error
    status = app.move.status
    assert status is not None
    return status

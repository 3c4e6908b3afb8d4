"""In charge of `/health/live`, `/health/ready` and `/status`: how the process is, without flattery."""

import asyncio

import msgspec

from twofold.app import App
from twofold.errors import Unavailable
from twofold.http.exchange import Exchange
from twofold.http.limits import Deadlines, Limits, took_too_long
from twofold.http.parameters import read_parameters
from twofold.http.routing import Handler
from twofold.http.streams import Streams, once_a_second
from twofold.status import Status

_encode = msgspec.json.Encoder().encode


class Health(msgspec.Struct, frozen=True):
    """Whether the process is well; where it is not, the problem says why."""

    ok: bool


def live_handler() -> Handler:
    """Says that the process answers, whatever its stores do."""

    async def handle(exchange: Exchange) -> None:
        await exchange.json(_encode(Health(True)))

    return handle


def ready_handler(app: App, draining: asyncio.Event, limits: Limits, deadlines: Deadlines) -> Handler:
    """Says whether requests should be sent here: 503 with the reasons where they should not."""

    async def handle(exchange: Exchange) -> None:
        reasons = ["This process is about to stop."] if draining.is_set() else await reasons_now()
        if reasons:
            await exchange.problem(Unavailable("Not ready: " + " ".join(reasons)), reasons)
        else:
            await exchange.json(_encode(Health(True)))

    async def reasons_now() -> list[str]:
        try:
            status = await deadlines.within(limits.request_seconds, app.status(), took_too_long)
        except Unavailable as error:
            return [str(error)]
        return [] if status.ready else status.problems or ["The app does not say why."]

    return handle


def status_handler(app: App, limits: Limits, deadlines: Deadlines, streams: Streams) -> Handler:
    """Tells the numbers of the app, once or once a second."""

    async def handle(exchange: Exchange) -> None:
        read_parameters(exchange.query_string, {}, limits)
        if exchange.wants_stream:
            await streams.serve(exchange, once_a_second(app.world, "status", read))
        else:
            await exchange.json(_encode(await deadlines.within(limits.request_seconds, read(), took_too_long)))

    async def read() -> Status:
        status = await app.status()
        if not streams.draining.is_set():
            return status
        leaving = [*status.problems, "This process is about to stop."]
        return msgspec.structs.replace(status, ready=False, problems=leaving)

    return handle

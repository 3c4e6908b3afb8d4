"""`/health/live`, `/health/ready` and `/status`: how the process is doing."""

import msgspec

from twofold.errors import Unavailable
from twofold.http.exchange import Exchange, Handler
from twofold.http.streams import once_a_second
from twofold.http.wire import Wire
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


def ready_handler(wire: Wire) -> Handler:
    """Says whether requests should be sent here: 503 with the reasons where they should not."""

    async def handle(exchange: Exchange) -> None:
        reasons = ["This process is about to stop."] if wire.streams.draining.is_set() else await reasons_now()
        if reasons:
            await exchange.problem(Unavailable("Not ready: " + " ".join(reasons)), reasons)
        else:
            await exchange.json(_encode(Health(True)))

    async def reasons_now() -> list[str]:
        try:
            status = await wire.in_time(wire.app.status())
        except Unavailable as error:
            return [str(error)]
        return [] if status.ready else status.problems or ["The app does not say why."]

    return handle


def status_handler(wire: Wire) -> Handler:
    """Tells the numbers of the app, once or once a second."""

    async def handle(exchange: Exchange) -> None:
        wire.parameters(exchange)
        if exchange.wants_stream:
            await wire.streams.serve(exchange, once_a_second(wire.app.world, "status", read))
        else:
            await exchange.json(_encode(await wire.in_time(read())))

    async def read() -> Status:
        status = await wire.app.status()
        if not wire.streams.draining.is_set():
            return status
        leaving = [*status.problems, "This process is about to stop."]
        return msgspec.structs.replace(status, ready=False, problems=leaving)

    return handle

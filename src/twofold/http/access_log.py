"""The access log: one record for each request that was answered, without its query string and its bodies."""

import logging

from starlette.types import Message

from twofold.http.exchange import Exchange
from twofold.world import World

ACCESS_LOGGER = "twofold.access"

log = logging.getLogger(ACCESS_LOGGER)


class AccessRecord:
    """Counts what is sent in answer to one request, and logs it at its end.

    The attribute `request` of the record has `method`, `path`, `status` (0: no answer began), `seconds` until its end,
    `bytes` of the body, and `caller`: the name of the actor, `-` where nobody is known.
    """

    def __init__(self, exchange: Exchange, world: World) -> None:
        self._exchange = exchange
        self._world = world
        self._began = world.monotonic()
        self._status = 0
        self._bytes = 0
        self._send = exchange.send
        exchange.send = self._count

    async def _count(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        else:
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    def finish(self) -> None:
        """Log the request."""
        exchange = self._exchange
        request = {
            "method": exchange.method,
            "path": exchange.path,
            "status": self._status,
            "seconds": round(self._world.monotonic() - self._began, 6),
            "bytes": self._bytes,
            "client": exchange.client,
            "caller": "-" if exchange.actor is None else exchange.actor.name,
        }
        text = "%(method)s %(path)s %(status)d %(seconds).6f s %(bytes)d bytes %(client)s %(caller)r"
        log.info(text, request, extra={"request": request})

"""CORS: what pages of other, allowed sites may send and read."""

from starlette.types import Message

from twofold.http.exchange import Exchange, Headers
from twofold.http.security import Trust

_SENT = (
    b"accept, authorization, content-type, idempotency-key, last-event-id, traceparent, tracestate, twofold-position"
)
_SHOWN = b"twofold-position, idempotent-replay, idempotency-key-seconds, retry-after, traceresponse"
_KEPT_SECONDS = b"600"
_ORIGIN = (b"vary", b"Origin")


class Cors:
    """Tells browsers that pages of the allowed origins may read an answer, and answers their questions beforehand."""

    def __init__(self, trust: Trust) -> None:
        self._origins = frozenset(origin.encode() for origin in trust.origins)
        self._credentials: Headers = [(b"access-control-allow-credentials", b"true")] if trust.credentials else []

    def apply(self, exchange: Exchange) -> None:
        """Let every answer to this request say who may read it."""
        if not self._origins:
            return
        origin = exchange.headers.get(b"origin", b"")
        own: Headers = []
        if origin in self._origins:
            own = [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _SHOWN)]
            own += self._credentials
        send = exchange.send

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = message.get("headers", ())
                # A mounted page may have an answer of its own to this.
                if any(name.lower() == b"access-control-allow-origin" for name, _ in given):
                    added: Headers = []
                else:
                    added = [_ORIGIN, *own]
                message = {**message, "headers": [*given, *added]}
            await send(message)

        exchange.send = with_headers

    def preflight(self, exchange: Exchange, allow: str) -> Headers:
        """The headers that answer whether a page of an allowed origin may send; none to all others."""
        if b"access-control-request-method" not in exchange.headers:
            return []
        if exchange.headers.get(b"origin", b"") not in self._origins:
            return []
        return [
            (b"access-control-allow-methods", allow.encode()),
            (b"access-control-allow-headers", _SENT),
            (b"access-control-max-age", _KEPT_SECONDS),
            (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]

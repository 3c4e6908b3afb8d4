"""Request bodies: JSON with the right content type, complete, within the limits of time and size."""

from collections.abc import Awaitable, Callable
from typing import Any

from twofold.codec import RequestDecoder
from twofold.http.exchange import Exchange
from twofold.http.problems import HttpRefused
from twofold.http.wire import Wire

_JSON_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})


def body_reader(wire: Wire, kind: type) -> Callable[[Exchange], Awaitable[Any]]:
    """A function that reads a body as an instance of `kind`.

    It raises InvalidMessage, naming the field, for a body that does not fit, HttpRefused for one that is not JSON, too
    large or too slow, and ClientGone where the client left.
    """
    limits = wire.limits
    decode = RequestDecoder(kind)

    async def read(exchange: Exchange) -> Any:
        _check_type(exchange.headers)
        return decode(await wire.deadlines.within(limits.body_seconds, exchange.body(limits.body_bytes), _too_slow))

    return read


def _check_type(headers: dict[bytes, bytes]) -> None:
    content_type = headers.get(b"content-type", b"")
    if content_type not in _JSON_TYPES and content_type.lower().replace(b'"', b"") not in _JSON_TYPES:
        raise HttpRefused(
            "not-json",
            "The body must be JSON in UTF-8. Send `Content-Type: application/json`.",
            field="Content-Type",
            close=True,
        )
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise HttpRefused(
            "not-json",
            "A compressed body is not accepted. Leave out Content-Encoding.",
            field="Content-Encoding",
            close=True,
        )


def _too_slow() -> HttpRefused:
    return HttpRefused("too-slow", "The body did not arrive in time. Send it again.", close=True)

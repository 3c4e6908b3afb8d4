"""In charge of bodies: JSON that is announced as JSON, whole, within its time and size, and nothing besides."""

from collections.abc import Awaitable, Callable
from typing import Any

from twofold.codec import RequestDecoder
from twofold.http.exchange import Exchange
from twofold.http.limits import Deadlines, Limits
from twofold.http.problems import HttpRefused

_JSON_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})


def body_reader(kind: type, limits: Limits, deadlines: Deadlines) -> Callable[[Exchange], Awaitable[Any]]:
    """What reads a body as an instance of `kind`.

    It raises InvalidMessage, naming the field, for what does not fit, HttpRefused for what is no JSON, too large or
    too slow, and ClientGone where the caller left.
    """
    decode = RequestDecoder(kind)

    async def read(exchange: Exchange) -> Any:
        _check_type(exchange.headers)
        body = await deadlines.within(limits.body_seconds, exchange.body(limits.body_bytes), _too_slow)
        return decode(body)

    return read


def _check_type(headers: dict[bytes, bytes]) -> None:
    told = headers.get(b"content-type", b"")
    if told not in _JSON_TYPES and told.lower().replace(b'"', b"") not in _JSON_TYPES:
        raise HttpRefused(
            "not-json",
            "This is sent as `Content-Type: application/json`, in UTF-8.",
            field="Content-Type",
            close=True,
        )
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise HttpRefused(
            "not-json", "This is not compressed. Leave Content-Encoding out.", field="Content-Encoding", close=True
        )


def _too_slow() -> HttpRefused:
    return HttpRefused("too-slow", "The body did not arrive in time. Send it again, all of it.", close=True)

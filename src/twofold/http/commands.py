"""In charge of `POST /commands/<name>`: a command in, a receipt out."""

import msgspec

from twofold.app import App
from twofold.errors import InvalidMessage
from twofold.http.exchange import ClientGone, Exchange, Headers
from twofold.http.fields import strict_fields
from twofold.http.limits import Deadlines, Lane, Limits, took_too_long
from twofold.http.problems import HttpRefused
from twofold.http.routing import Handler

_encode = msgspec.json.Encoder().encode
_JSON_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})


def command_handler(app: App, name: str, limits: Limits, lane: Lane, deadlines: Deadlines) -> Handler:
    """What answers a command of one type."""
    kind = app.wiring.commands[name]
    check_fields = strict_fields(kind)

    async def handle(exchange: Exchange) -> None:
        command_id = _command_id(exchange, limits.key_length)
        _check_type(exchange.headers)
        try:
            body = await deadlines.within(limits.body_seconds, exchange.body(limits.body_bytes), _too_slow)
        except ClientGone:
            return
        command = app.messages.decode_request(kind, body)
        check_fields(body)
        with lane:
            receipt = await deadlines.within(
                limits.request_seconds, app.send(command, command_id=command_id), took_too_long
            )
        headers: Headers = [(b"twofold-position", receipt.token.encode())]
        if receipt.repeated:
            headers.append((b"idempotent-replay", b"true"))
        await exchange.json(_encode(receipt), headers)

    return handle


def _command_id(exchange: Exchange, longest: int) -> str | None:
    key = exchange.text(b"idempotency-key")
    if key is not None and (not 0 < len(key) <= longest or not key.isprintable() or " " in key):
        raise InvalidMessage(
            f"Idempotency-Key has 1 to {longest} visible ASCII characters. A UUID is a good one.",
            field="Idempotency-Key",
        )
    return key


def _check_type(headers: dict[bytes, bytes]) -> None:
    told = headers.get(b"content-type", b"")
    if told not in _JSON_TYPES and told.lower().replace(b'"', b"") not in _JSON_TYPES:
        raise HttpRefused(
            "not-json",
            "A command is sent as `Content-Type: application/json`, in UTF-8.",
            field="Content-Type",
            close=True,
        )
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise HttpRefused(
            "not-json", "A command is not compressed. Leave Content-Encoding out.", field="Content-Encoding", close=True
        )


def _too_slow() -> HttpRefused:
    return HttpRefused("too-slow", "The body did not arrive in time. Send it again, all of it.", close=True)

"""In charge of `POST /commands/<name>`: a command in, a receipt out."""

from collections.abc import Mapping, Sequence

import msgspec

from twofold.app import App
from twofold.errors import InvalidMessage, UnknownMessage
from twofold.http.bodies import body_reader
from twofold.http.exchange import ClientGone, Exchange, Headers
from twofold.http.limits import Deadlines, Lane, Limits, took_too_long
from twofold.http.parameters import Parameter, read_parameters
from twofold.http.routing import Handler

WAIT_FOR = "wait_for"
"""The parameter that names the projections and policies the receipt waits for."""

_PARAMETERS: Mapping[str, Parameter] = {WAIT_FOR: Parameter(WAIT_FOR, many=True)}
_encode = msgspec.json.Encoder().encode


def command_handler(app: App, name: str, limits: Limits, lane: Lane, deadlines: Deadlines) -> Handler:
    """What answers a command of one type."""
    read = body_reader(app.wiring.commands[name], limits, deadlines)

    async def handle(exchange: Exchange) -> None:
        command_id = _command_id(exchange, limits.key_length)
        wait_for = _wait_for(app, exchange.query_string, limits) if exchange.query_string else ()
        # The receipt has to be on its way before the request's own deadline, which would hide that it is written.
        longest = min(app.settings.wait_seconds, limits.request_seconds / 2)
        try:
            command = await read(exchange)
        except ClientGone:
            return
        with lane:
            receipt = await deadlines.within(
                limits.request_seconds,
                app.send(command, command_id=command_id, wait_for=wait_for, wait_seconds=longest),
                took_too_long,
            )
        headers: Headers = [(b"twofold-position", receipt.token.encode())]
        if receipt.repeated:
            headers.append((b"idempotent-replay", b"true"))
        await exchange.json(_encode(receipt), headers)

    return handle


def names_to_wait_for(app: App) -> list[str]:
    """The projections and policies that a command may wait for."""
    return sorted([*app.wiring.projections, *app.wiring.policies])


def _wait_for(app: App, query_string: bytes, limits: Limits) -> Sequence[str]:
    told: list[str] = read_parameters(query_string, _PARAMETERS, limits).get(WAIT_FOR, [])
    known = frozenset(names_to_wait_for(app))
    names = [name for value in told for name in ([value] if value in known else value.split(","))]
    try:
        for name in names:
            app.projections.check_waited_for(name)
    except UnknownMessage as error:
        raise InvalidMessage(str(error), field=WAIT_FOR) from error
    return names


def _command_id(exchange: Exchange, longest: int) -> str | None:
    key = exchange.text(b"idempotency-key")
    if key is not None and (not 0 < len(key) <= longest or not key.isprintable() or " " in key):
        raise InvalidMessage(
            f"Idempotency-Key has 1 to {longest} visible ASCII characters. A UUID is a good one.",
            field="Idempotency-Key",
        )
    return key

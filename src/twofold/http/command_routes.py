"""`POST /commands/<name>`: takes a command, answers with its receipt."""

from collections.abc import Sequence

import msgspec

from twofold.app import App
from twofold.domain.command_ids import refuse_runtime_id
from twofold.errors import InvalidMessage, UnknownMessage
from twofold.http.exchange import Exchange, Handler, Headers
from twofold.http.parameters import QueryParameter
from twofold.http.wire import Wire

WAIT_FOR = "wait_for"
"""The parameter that names the projections and policies the receipt waits for."""

_PARAMETERS = {WAIT_FOR: QueryParameter(WAIT_FOR, many=True)}
_encode = msgspec.json.Encoder().encode


def command_handler(wire: Wire, name: str) -> Handler:
    app = wire.app
    read = wire.body_reader(app.wiring.commands[name])
    known = frozenset(names_to_wait_for(app))
    # The receipt must be sent before the deadline of the request, whose error would hide that the command is written.
    longest = min(app.settings.wait_seconds, wire.limits.request_seconds / 2)

    async def handle(exchange: Exchange) -> None:
        command_id = _command_id(exchange, wire.limits.key_length)
        wait_for = _wait_for(wire, exchange, known) if exchange.query_string else ()
        command = await read(exchange)
        with wire.quotas.commands:
            receipt = await wire.in_time(
                app.send(command, command_id=command_id, actor=exchange.actor, wait_for=wait_for, wait_seconds=longest)
            )
        headers: Headers = [(b"twofold-position", receipt.token.encode())]
        if receipt.repeated:
            headers.append((b"idempotent-replay", b"true"))
        if receipt.remembered_seconds is not None:
            headers.append((b"idempotency-key-seconds", b"%d" % receipt.remembered_seconds))
        # Not counted: an error in place of the receipt would hide that the command is written.
        await exchange.json(_encode(receipt), headers, counted=False)

    return handle


def names_to_wait_for(app: App) -> list[str]:
    """The projections and policies that a command may wait for."""
    return sorted({*app.wiring.projections, *app.wiring.followers})


def _wait_for(wire: Wire, exchange: Exchange, known: frozenset[str]) -> Sequence[str]:
    values: list[str] = wire.parameters(exchange, _PARAMETERS).get(WAIT_FOR, [])
    names = [name for value in values for name in ([value] if value in known else value.split(","))]
    try:
        for name in names:
            wire.app.projections.check_waited_for(name)
    except UnknownMessage as error:
        raise InvalidMessage(str(error), field=WAIT_FOR) from error
    return names


def _command_id(exchange: Exchange, longest: int) -> str | None:
    key = exchange.text(b"idempotency-key")
    if key is not None and (not 0 < len(key) <= longest or not key.isprintable() or " " in key):
        raise InvalidMessage(
            f"Invalid Idempotency-Key. Send 1 to {longest} visible ASCII characters, for example a UUID.",
            field="Idempotency-Key",
        )
    if key is not None:
        refuse_runtime_id(key, "Idempotency-Key")
    return key

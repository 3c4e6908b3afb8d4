"""`/health/live`, `/health/ready` and `/status`: whether the process answers, whether to send requests, and all it
measures."""

from collections.abc import Mapping
from typing import Any

import msgspec

from twofold.errors import InvalidMessage, Unavailable
from twofold.health import HealthReport, Side, stopping
from twofold.http.exchange import Exchange, Handler
from twofold.http.parameters import QueryParameter
from twofold.http.public_reports import shown_to
from twofold.http.streams import once_a_second
from twofold.http.wire import Wire
from twofold.status import Status

_encode = msgspec.json.Encoder().encode
_SIDE = {"side": QueryParameter("side")}
_SIDES: Mapping[str, Side] = {"command": "command", "query": "query"}


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    ok: bool


async def answer_live(exchange: Exchange) -> None:
    """Says that the process answers, whatever its stores do."""
    await exchange.json(_encode(Alive(True)))


def ready_handler(wire: Wire) -> Handler:
    """Says whether to send requests here, or those of one `side`: 200 if ready or degraded, else 503; with the report
    in both cases. What is wrong is only for those who may inspect."""

    async def handle(exchange: Exchange) -> None:
        side = _side(wire.parameters(exchange, _SIDE))
        await wire.admit_anybody(exchange)
        report = shown_to(wire, exchange, (await wire.in_time(status_now(wire))).health)
        level = report.of(side)
        if side is not None and level is None:
            wire.app.roles.refuse_without(side, f"The {side} side")
        if level != "not_ready":
            await exchange.json(_encode(report))
            return
        wrong = [each.message for each in report.problems if each.level == "not_ready" and side in (None, each.side)]
        await exchange.problem(Unavailable(" ".join(["Not ready.", *dict.fromkeys(wrong)])), report)

    return handle


def status_handler(wire: Wire) -> Handler:
    """Answers with the status of the app, once or once a second."""

    async def handle(exchange: Exchange) -> None:
        async def read() -> Status:
            return shown_to(wire, exchange, await status_now(wire))

        wire.parameters(exchange)
        if exchange.wants_stream:
            events = once_a_second(wire.app.world, "status", read)
            await wire.streams.serve(exchange, events, wire.budgets.answers.begin())
        else:
            await exchange.json(_encode(await wire.in_time(read())))

    return handle


async def status_now(wire: Wire) -> Status:
    """The status of the app; not ready if the server is about to stop."""
    status = await wire.app.status()
    if not wire.streams.draining.is_set():
        return status
    return msgspec.structs.replace(status, health=stopping(status.health))


def not_ready_schema(shared: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of what `/health/ready` answers with 503: a problem with the members of the report."""
    problem, report = shared["Problem"], shared[HealthReport.__name__]
    properties = {name: shape for name, shape in report["properties"].items() if name not in problem["properties"]}
    return {**problem, "title": "NotReady", "properties": problem["properties"] | properties}


def _side(parameters: Mapping[str, Any]) -> Side | None:
    if "side" not in parameters:
        return None
    side = _SIDES.get(parameters["side"])
    if side is None:
        raise InvalidMessage("side is `command` or `query`. Leave it out for both.", field="side")
    return side

"""`/projections`: how projections and policies are doing, and what operators do to them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import msgspec

from twofold.access.rules import INSPECT, Right
from twofold.app import App
from twofold.domain.actor import name_of
from twofold.domain.events import Position
from twofold.domain.projection import MAX_KEY
from twofold.errors import InvalidMessage, UnknownMessage, WiringError
from twofold.health import BuildStatus, FollowerStatus, HealthReport
from twofold.http.action_records import ActionRecord, action_record
from twofold.http.exchange import Exchange, Handler, Route
from twofold.http.parameters import QueryParameter, limit_of
from twofold.http.public_reports import shown_to, texts_for_operators
from twofold.http.wire import NO_PARAMETERS, Wire
from twofold.projections import MAX_REASON, Projections
from twofold.read_store.port import Parked
from twofold.synchronization.cluster_state import OperatorAction

REBUILD = "rebuild"
"""The last word of the path that rebuilds several projections; no projection may have it as its name."""

MAX_ACTIONS = 1_000
_LIMIT = {"limit": QueryParameter("limit")}
_PARKED = {**_LIMIT, "key": QueryParameter("key")}
_encode = msgspec.json.Encoder().encode


class AllProjections(msgspec.Struct, frozen=True):
    """All projections and policies. `builds` are generations beside those that serve."""

    head: Position
    followers: list[FollowerStatus]
    builds: list[BuildStatus]
    health: HealthReport


class OneProjection(msgspec.Struct, frozen=True):
    """One projection or policy, and its generations that do not serve."""

    head: Position
    follower: FollowerStatus
    builds: list[BuildStatus]


class ParkedKeys(msgspec.Struct, frozen=True):
    """What a projection or policy has parked: the first ones, and the number of all."""

    parked: list[Parked]
    count: int


class ActionList(msgspec.Struct, frozen=True):
    """The last actions of operators, the oldest first."""

    actions: list[ActionRecord]


class RebuildStarted(msgspec.Struct, frozen=True):
    """The numbers of the generations that are being built, by projection."""

    generations: dict[str, int]


class ServingGeneration(msgspec.Struct, frozen=True):
    """The number of the generation that serves now."""

    name: str
    generation: int


class DroppedGenerations(msgspec.Struct, frozen=True):
    """The numbers of the generations that were dropped."""

    name: str
    generations: list[int]


class EmptyBody(msgspec.Struct, frozen=True):
    """No details are needed."""


class NamesBody(msgspec.Struct, frozen=True):
    """Projections to rebuild in one pass over the log."""

    names: Annotated[list[str], msgspec.Meta(min_length=1)]


class SwitchBody(msgspec.Struct, frozen=True):
    """`generation`: switch only if this one was built. `force`: switch even if it has parked keys that the one that
    serves does not have, or has only at a later event."""

    generation: Annotated[int, msgspec.Meta(ge=1)] | None = None
    force: bool = False


class KeyBody(msgspec.Struct, frozen=True):
    """The key of a row (of a parked event: the key that `parked` gives it)."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY)]


class SkipBody(msgspec.Struct, frozen=True):
    """The key, and the position at which `parked` shows it: where it is parked at another one by now, nothing is
    skipped."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY)]
    position: Annotated[int, msgspec.Meta(ge=0)] | None = None


class PauseBody(msgspec.Struct, frozen=True):
    """Why it is paused, for those who see it."""

    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON, examples=["The mail server is being moved."])] = ""


class ResumeBody(msgspec.Struct, frozen=True):
    """`skip`: of a policy that has paused itself, the position of the event to leave out."""

    skip: Annotated[int, msgspec.Meta(ge=1)] | None = None


class PartitionBody(msgspec.Struct, frozen=True):
    """A partition as the status names it: `0-4096` is the whole."""

    partition: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,4}-[0-9]{1,4}$", examples=["0-4096"])]


class OperatorCall(NamedTuple):
    """What an operator requests of one projection or policy, to be done within `timeout` seconds."""

    projections: Projections
    name: str
    body: Any
    actor: str | None
    timeout: float


class OperatorVerb(NamedTuple):
    """Something operators do: the body of the request, the answer, a summary, and the function that does it."""

    body: type
    answer: type
    summary: str
    do: Callable[[OperatorCall], Awaitable[object]]


async def _rebuild(call: OperatorCall) -> RebuildStarted:
    return RebuildStarted(await call.projections.rebuild([call.name], actor=call.actor))


async def _switch(call: OperatorCall) -> ServingGeneration:
    generation, force = call.body.generation, call.body.force
    serving = await call.projections.switch(call.name, generation=generation, force=force, actor=call.actor)
    return ServingGeneration(call.name, serving)


async def _switch_back(call: OperatorCall) -> ServingGeneration:
    return ServingGeneration(call.name, await call.projections.switch_back(call.name, actor=call.actor))


async def _drop(call: OperatorCall) -> DroppedGenerations:
    return DroppedGenerations(call.name, await call.projections.drop(call.name, actor=call.actor))


def _by_follower(
    do: Callable[..., Awaitable[OperatorAction]],
    body: type[KeyBody | SkipBody | PartitionBody | PauseBody | ResumeBody],
    summary: str,
) -> OperatorVerb:
    """What the nodes that follow do, given the fields of the body. InvalidMessage, with the reason, if they could
    not."""
    fields = body.__struct_fields__

    async def request(call: OperatorCall) -> ActionRecord:
        arguments = [getattr(call.body, field) for field in fields]
        action = await do(call.projections, call.name, *arguments, actor=call.actor, timeout=call.timeout)
        if not action.done:
            raise InvalidMessage(action.outcome, field=fields[0])
        return action_record(action)

    return OperatorVerb(body, ActionRecord, summary, request)


VERBS: Mapping[str, OperatorVerb] = {
    "rebuild": OperatorVerb(EmptyBody, RebuildStarted, "Rebuild a projection beside the one that serves", _rebuild),
    "switch": OperatorVerb(SwitchBody, ServingGeneration, "Switch to the generation that was built", _switch),
    "switch-back": OperatorVerb(
        EmptyBody, ServingGeneration, "Switch back to the generation that served before", _switch_back
    ),
    "drop": OperatorVerb(EmptyBody, DroppedGenerations, "Drop every generation that does not serve", _drop),
    "retry": _by_follower(Projections.retry, KeyBody, "Retry a parked key or event"),
    "skip": _by_follower(Projections.skip, SkipBody, "Skip the event at which a key is parked"),
    "repair": _by_follower(Projections.repair, KeyBody, "Repair a row: fold its key again from the first event"),
    "pause": _by_follower(Projections.pause, PauseBody, "Pause a projection or policy"),
    "resume": _by_follower(Projections.resume, ResumeBody, "Resume a paused projection or policy"),
    "split": _by_follower(Projections.split, PartitionBody, "Split a partition in two"),
    "merge": _by_follower(Projections.merge, PartitionBody, "Merge a partition with the next one"),
}
"""What operators do to one projection or policy, by the last word of the path."""

BODIES_AND_ANSWERS = dict.fromkeys(
    [
        *(AllProjections, OneProjection, ActionList, ParkedKeys, RebuildStarted, NamesBody),
        *(kind for verb in VERBS.values() for kind in (verb.body, verb.answer)),
    ]
)
"""All types that requests and answers under `/projections` have, each once."""


def followed_names(app: App) -> list[str]:
    """The projections and policies that have a path."""
    return sorted(app.wiring.followers)


def projection_routes(wire: Wire) -> dict[str, Route]:
    """All routes under `/projections`. WiringError where a name would hide one."""
    routes = {
        "/projections": Route("GET", INSPECT, _reading(wire, lambda _: _all(wire.app))),
        f"/projections/{REBUILD}": Route("POST", Right("operate", REBUILD), _doing(wire, NamesBody, _rebuild_several)),
    }
    for name in followed_names(wire.app):
        if name == REBUILD:
            raise WiringError(
                f"'{name}' cannot be the name of a projection or policy: POST /projections/{name} rebuilds several of "
                "them. Rename it."
            )
        own = _routes_of(wire, name)
        # Browsers and other clients encode some characters differently.
        for path in {f"/projections/{quote(name, safe=safe)}" for safe in ("", "!'()*")}:
            routes |= {f"{path}{rest}": route for rest, route in own.items()}
    return routes


def _routes_of(wire: Wire, name: str) -> dict[str, Route]:
    return {
        "": Route("GET", INSPECT, _reading(wire, lambda _: _one(wire.app, name))),
        "/parked": Route("GET", INSPECT, _reading(wire, lambda fields: _parked(wire.app, name, fields), _PARKED)),
        "/actions": Route("GET", INSPECT, _reading(wire, lambda fields: _actions(wire.app, name, fields), _LIMIT)),
        **{
            f"/{word}": Route("POST", Right("operate", word), _doing(wire, verb.body, verb.do, name))
            for word, verb in VERBS.items()
        },
    }


def _reading(
    wire: Wire,
    read: Callable[[Mapping[str, Any]], Awaitable[object]],
    known: Mapping[str, QueryParameter] = NO_PARAMETERS,
) -> Handler:
    async def handle(exchange: Exchange) -> None:
        fields = wire.parameters(exchange, known)
        with wire.quotas.reads:
            answer = await wire.in_time(read(fields))
        await exchange.json(_encode(shown_to(wire, exchange, answer)))

    return handle


def _doing(wire: Wire, kind: type, do: Callable[[OperatorCall], Awaitable[object]], name: str = "") -> Handler:
    read = wire.body_reader(kind)
    timeout = wire.limits.request_seconds / 2

    async def handle(exchange: Exchange) -> None:
        wire.parameters(exchange)
        body = await read(exchange)
        call = OperatorCall(wire.app.projections, name, body, name_of(exchange.actor), timeout)
        with wire.quotas.commands, texts_for_operators(wire, exchange):
            answer = await wire.in_time(do(call))
        await exchange.json(_encode(shown_to(wire, exchange, answer)))

    return handle


async def _rebuild_several(call: OperatorCall) -> RebuildStarted:
    try:
        return RebuildStarted(await call.projections.rebuild(list(dict.fromkeys(call.body.names)), actor=call.actor))
    except UnknownMessage as error:
        raise UnknownMessage(str(error), field="names") from error


async def _all(app: App) -> AllProjections:
    status = await app.status()
    return AllProjections(status.head, status.followers, status.builds, status.health)


async def _one(app: App, name: str) -> OneProjection:
    status = await app.status()
    follower = next((report for report in status.followers if report.name == name), None)
    if follower is None:
        raise UnknownMessage(f"No node follows the log for '{name}'.", field="name")
    return OneProjection(status.head, follower, [build for build in status.builds if build.name == name])


async def _parked(app: App, name: str, fields: Mapping[str, Any]) -> ParkedKeys:
    limit = limit_of(fields, MAX_ACTIONS)
    parked = [each for each in await app.projections.parked(name) if fields.get("key", each.key) == each.key]
    return ParkedKeys(parked[:limit], len(parked))


async def _actions(app: App, name: str, fields: Mapping[str, Any]) -> ActionList:
    limit = limit_of(fields, MAX_ACTIONS)
    actions = list((await app.projections.actions(name)).values())
    return ActionList([action_record(action) for action in actions[-limit:]])

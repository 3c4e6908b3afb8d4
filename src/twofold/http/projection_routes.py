"""In charge of `/projections`: how all that follows the log is doing, and what operators do to it."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

import msgspec

from twofold.app import App
from twofold.domain.events import Position
from twofold.domain.projection import MAX_KEY
from twofold.errors import InvalidMessage, UnknownMessage, WiringError
from twofold.http.bodies import body_reader
from twofold.http.exchange import ClientGone, Exchange
from twofold.http.limits import Deadlines, Lane, Limits, took_too_long
from twofold.http.parameters import Parameter, read_parameters
from twofold.http.routing import Handler, Route
from twofold.synchronization.cluster_state import OperatorAction
from twofold.synchronization.follower import BuildStatus, FollowerStatus

SEVERAL = "rebuild"
"""The last word of the path that begins to build several projections; none may have it as its name."""

MOST_ACTS = 1_000
_LIMIT: Mapping[str, Parameter] = {"limit": Parameter("limit")}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


class Following(msgspec.Struct, frozen=True):
    """All that follows the log, by what the stores keep. `builds` are generations beside those that serve."""

    head: Position
    followers: list[FollowerStatus]
    builds: list[BuildStatus]
    problems: list[str]


class Followed(msgspec.Struct, frozen=True):
    """One projection or policy, and the generations of it that do not serve."""

    head: Position
    follower: FollowerStatus
    builds: list[BuildStatus]


class ShownAct(msgspec.Struct, frozen=True):
    """What was done on an operator's request. `done` false says that nothing could be done, and `outcome` why."""

    what: str
    name: str
    key: str
    actor: str | None
    time: datetime
    done: bool
    outcome: str
    generation: int
    version: int
    position: Position


class Acts(msgspec.Struct, frozen=True):
    """What was done lately, the oldest first."""

    acts: list[ShownAct]


class Begun(msgspec.Struct, frozen=True):
    """The numbers of the generations that are being built, by projection."""

    generations: dict[str, int]


class Serving(msgspec.Struct, frozen=True):
    """The number of the generation that serves now."""

    name: str
    generation: int


class Dropped(msgspec.Struct, frozen=True):
    """The numbers of the generations that are gone."""

    name: str
    generations: list[int]


class Nothing(msgspec.Struct, frozen=True):
    """There is nothing more to say."""


class Several(msgspec.Struct, frozen=True):
    """Projections to be built in one pass over the log."""

    names: Annotated[list[str], msgspec.Meta(min_length=1)]


class Switching(msgspec.Struct, frozen=True):
    """`generation`: only if this is the one that was built. `force`: although it has parked keys that the one that
    serves has not, or only at a later event."""

    generation: Annotated[int, msgspec.Meta(ge=1)] | None = None
    force: bool = False


class OfKey(msgspec.Struct, frozen=True):
    """The key of a row (of a policy: what `parked` calls the event)."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY)]


class OfPartition(msgspec.Struct, frozen=True):
    """A partition as the status names it: `0-4096` is the whole."""

    partition: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,4}-[0-9]{1,4}$", examples=["0-4096"])]


class Verb(NamedTuple):
    """Something operators do: what they say, what they are answered, and who does it within so many seconds."""

    body: type
    answer: type
    summary: str
    do: Callable[[App, str, Any, float], Awaitable[object]]


async def _rebuild(app: App, name: str, body: Nothing, _: float) -> Begun:
    return Begun(await app.projections.rebuild([name]))


async def _switch(app: App, name: str, body: Switching, _: float) -> Serving:
    return Serving(name, await app.projections.switch(name, generation=body.generation, force=body.force))


async def _back(app: App, name: str, body: Nothing, _: float) -> Serving:
    return Serving(name, await app.projections.switch_back(name))


async def _drop(app: App, name: str, body: Nothing, _: float) -> Dropped:
    return Dropped(name, await app.projections.drop(name))


async def _retry(app: App, name: str, body: OfKey, patience: float) -> ShownAct:
    return _done(await app.projections.retry(name, body.key, timeout=patience), "key")


async def _skip(app: App, name: str, body: OfKey, patience: float) -> ShownAct:
    return _done(await app.projections.skip(name, body.key, timeout=patience), "key")


async def _repair(app: App, name: str, body: OfKey, patience: float) -> ShownAct:
    return _done(await app.projections.repair(name, body.key, timeout=patience), "key")


async def _split(app: App, name: str, body: OfPartition, patience: float) -> ShownAct:
    return _done(await app.projections.split(name, body.partition, timeout=patience), "partition")


async def _merge(app: App, name: str, body: OfPartition, patience: float) -> ShownAct:
    return _done(await app.projections.merge(name, body.partition, timeout=patience), "partition")


VERBS = {
    "rebuild": Verb(Nothing, Begun, "Build a new generation beside the one that serves", _rebuild),
    "switch": Verb(Switching, Serving, "Let the generation that was built serve, and keep the other", _switch),
    "back": Verb(Nothing, Serving, "Let the generation that is kept serve again", _back),
    "drop": Verb(Nothing, Dropped, "Give up what is kept and what is being built", _drop),
    "retry": Verb(OfKey, ShownAct, "Fold (or react to) a parked key again, and free it", _retry),
    "skip": Verb(OfKey, ShownAct, "Pass over the event that a key is parked at", _skip),
    "repair": Verb(OfKey, ShownAct, "Fold a key from its first event, and replace its row", _repair),
    "split": Verb(OfPartition, ShownAct, "Part a partition in two", _split),
    "merge": Verb(OfPartition, ShownAct, "Put a partition and the one behind it together", _merge),
}
"""What is done to one of them, by the last word of the path."""


def followed_names(app: App) -> list[str]:
    """What there is a path for: everything that has a follower."""
    return sorted([*app.models, *app.wiring.policies])


def projection_routes(app: App, limits: Limits, reads: Lane, commands: Lane, deadlines: Deadlines) -> dict[str, Route]:
    """All routes under `/projections`. WiringError where a name would hide one."""
    routes = {
        "/projections": Route("GET", _answering(limits, reads, deadlines, lambda _: _all(app))),
        f"/projections/{SEVERAL}": Route("POST", _doing(app, Several, limits, commands, deadlines, _rebuild_all(app))),
    }
    for name in followed_names(app):
        if name == SEVERAL:
            raise WiringError(
                f"'{name}' cannot be the name of a projection or policy: POST /projections/{name} is for several of "
                "them. Rename it."
            )
        for place in _places(name):
            routes |= {f"{place}{rest}": route for rest, route in _of(app, name, limits, reads, commands, deadlines)}
    return routes


def _of(
    app: App, name: str, limits: Limits, reads: Lane, commands: Lane, deadlines: Deadlines
) -> list[tuple[str, Route]]:
    def doing(verb: Verb) -> Handler:
        patience = limits.request_seconds / 2
        return _doing(app, verb.body, limits, commands, deadlines, lambda body: verb.do(app, name, body, patience))

    one = _answering(limits, reads, deadlines, lambda _: _one(app, name))
    acts = _answering(limits, reads, deadlines, lambda told: _acts(app, name, told), _LIMIT)
    return [
        ("", Route("GET", one)),
        ("/acts", Route("GET", acts)),
        *((f"/{word}", Route("POST", doing(verb))) for word, verb in VERBS.items()),
    ]


def _answering(
    limits: Limits,
    lane: Lane,
    deadlines: Deadlines,
    read: Callable[[Mapping[str, Any]], Awaitable[object]],
    known: Mapping[str, Parameter] | None = None,
) -> Handler:
    async def handle(exchange: Exchange) -> None:
        told = read_parameters(exchange.query_string, known or {}, limits)
        with lane:
            answer = await deadlines.within(limits.request_seconds, read(told), took_too_long)
        await exchange.json(_encode(answer))

    return handle


def _doing(
    app: App,
    kind: type,
    limits: Limits,
    lane: Lane,
    deadlines: Deadlines,
    do: Callable[[Any], Awaitable[object]],
) -> Handler:
    read = body_reader(kind, limits, deadlines)

    async def handle(exchange: Exchange) -> None:
        read_parameters(exchange.query_string, {}, limits)
        try:
            body = await read(exchange)
        except ClientGone:
            return
        with lane:
            answer = await deadlines.within(limits.request_seconds, do(body), took_too_long)
        await exchange.json(_encode(answer))

    return handle


def _rebuild_all(app: App) -> Callable[[Several], Awaitable[Begun]]:
    async def do(body: Several) -> Begun:
        try:
            return Begun(await app.projections.rebuild(list(dict.fromkeys(body.names))))
        except UnknownMessage as error:
            raise UnknownMessage(str(error), field="names") from error

    return do


async def _all(app: App) -> Following:
    status = await app.status()
    return Following(status.head, status.followers, status.builds, status.problems)


async def _one(app: App, name: str) -> Followed:
    status = await app.status()
    follower = next((each for each in status.followers if each.name == name), None)
    if follower is None:
        raise UnknownMessage(f"Nothing follows the log for '{name}' here.", field="name")
    return Followed(status.head, follower, [each for each in status.builds if each.name == name])


async def _acts(app: App, name: str, told: Mapping[str, Any]) -> Acts:
    limit: str = told.get("limit", "100")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 6 and 1 <= int(limit) <= MOST_ACTS):
        raise InvalidMessage(f"limit is a whole number from 1 to {MOST_ACTS}.", field="limit")
    acts = list((await app.projections.actions(name)).values())
    return Acts([shown(act) for act in acts[-int(limit) :]])


def _done(act: OperatorAction, field: str) -> ShownAct:
    """An act as it is sent. InvalidMessage where nothing could be done: it says why."""
    if not act.done:
        raise InvalidMessage(act.outcome, field=field)
    return shown(act)


def shown(act: OperatorAction) -> ShownAct:
    """An act as it is sent."""
    return ShownAct(
        act.what,
        act.name,
        act.key,
        act.actor,
        _EPOCH + timedelta(microseconds=act.at),
        act.done,
        act.outcome,
        act.generation,
        act.version,
        act.position,
    )


def _places(name: str) -> set[str]:
    """The paths of a name, as browsers and everybody else encode it."""
    return {f"/projections/{quote(name, safe=safe)}" for safe in ("", "!'()*")}

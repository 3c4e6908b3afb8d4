"""In charge of one act of an operator: done by a `serve` that is asked, or by this process on a visit to the stores."""

import getpass
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import quote

import click
import msgspec

from twofold.app import App
from twofold.cli.app_loading import load_app, refuse_memory
from twofold.cli.maintenance import visiting
from twofold.cli.output import Exit, emit, printable
from twofold.cli.remote import remote
from twofold.errors import InvalidMessage, Unavailable
from twofold.synchronization.cluster_state import OperatorAction
from twofold.world import RealWorld, World

PATIENCE = 30.0
_POLL = 0.1


class Wish(msgspec.Struct, frozen=True):
    """What is to be done to a projection or policy: `what` to which `subject`, named `field` over HTTP."""

    what: str
    name: str
    field: str
    subject: str


class Done(msgspec.Struct, frozen=True):
    """What came of it. `parked` is the sentence about the key where it is set aside still, or again."""

    what: str
    name: str
    subject: str
    outcome: str
    position: int
    parked: str | None = None


Do = Callable[[App, Wish, str | None], Awaitable[OperatorAction]]


def told(done: Done, *, as_json: bool) -> int:
    """Say what came of it. 3 where a key is set aside all the same."""
    if as_json:
        emit(done)
    else:
        click.echo(printable(done.outcome))
        if done.parked is not None and done.parked != done.outcome:
            click.echo(printable(done.parked))
    return Exit.OK if done.parked is None else Exit.UNHEALTHY


async def act_by_visit(target: str, write_store: str | None, read_store: str | None, wish: Wish, do: Do) -> Done:
    """Open the stores of an app, and have it done there: by this process, or by the node that follows already."""
    app = load_app(target, write_store=write_store, read_store=read_store)
    refuse_memory(app.settings.write_store, "--write-store")
    refuse_memory(app.settings.read_store, "--read-store")
    async with visiting(app, [wish.name]):
        act = await do(app, wish, who())
        if not act.done:
            raise InvalidMessage(act.outcome, field=wish.field)

        async def parked() -> dict[str, tuple[int, str]]:
            followers = (await app.status()).followers
            return {p.key: (p.position, p.error) for each in followers if each.name == wish.name for p in each.parked}

        aside = await _aside(wish, act.position, parked, app.world)
    return Done(wish.what, wish.name, wish.subject, act.outcome, act.position, aside)


async def act_by_request(url: str, wish: Wish) -> Done:
    """Have the `serve` that runs at `url` do it."""
    there = remote(url)
    place = f"/projections/{quote(wish.name, safe='')}"
    act: dict[str, Any] = there.post(f"{place}/{wish.what}", {wish.field: wish.subject})

    async def parked() -> dict[str, tuple[int, str]]:
        follower: dict[str, Any] = there.get(place)["follower"]
        return {each["key"]: (each["position"], each["error"]) for each in follower["parked"]}

    aside = await _aside(wish, act["position"], parked, RealWorld())
    return Done(wish.what, wish.name, wish.subject, act["outcome"], act["position"], aside)


def words_of(words: Iterable[str]) -> list[str]:
    """Words of the command line as text that stores can hold. BadParameter where one is no UTF-8."""
    found = list(words)
    for each in found:
        try:
            each.encode()
        except UnicodeEncodeError as error:
            raise click.BadParameter("A name or key on the command line is written in UTF-8.") from error
    return found


async def _aside(
    wish: Wish, passed: int, parked: Callable[[], Awaitable[dict[str, tuple[int, str]]]], world: World
) -> str | None:
    """What is said of the key if it is set aside now. Looked up, since an act is on record before all of it is done."""
    if wish.field != "key":
        return None
    deadline = world.monotonic() + PATIENCE
    while True:
        found = (await parked()).get(wish.subject)
        if found is None:
            return None
        position, error = found
        if wish.what != "skip" or position != passed:
            return f"It is parked at position {position}: {error}"
        if world.monotonic() >= deadline:
            raise Unavailable(f"The event at {passed} is to be passed over, but who follows has not come to it yet.")
        await world.sleep(_POLL)


def who() -> str | None:
    """The user who runs this, for the record; None where the system does not know."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None

"""Two policies that answer each other without end, and what tests ask about them."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.sample_domains.counter_app_helpers import app_in, until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Ignore, Ignored, add_up, count, ignore
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection
from twofold.health import FollowerStatus
from twofold.synchronization.cluster_state import Pause

LIMIT = 10
_AT_THE_HEAD = ("up-to-date", "on-another-node")


async def ping(event: Ignored) -> Count:
    return Count(event.counters)


async def pong(event: Counted) -> Ignore:
    return Ignore(event.counters)


def policies(*reactions: Callable[..., Awaitable[Any]], alone: bool = False, **options: Any) -> Module:
    """The counters with a policy for each reaction, under its name; `alone` leaves out the projection."""
    return Module(
        "counters",
        events=[Counted, Ended, Ignored],
        decisions=[count, ignore],
        projections=[] if alone else [Projection("totals", add_up, key=CounterId)],
        policies=[Policy(react.__name__, react, **options) for react in reactions],
    )


def storm(folder: Path, *reactions: Callable[..., Awaitable[Any]], **settings: Any) -> App:
    """An app on SQLite of two policies that answer each other, or of other ones."""
    return app_in(folder, policies(*(reactions or (ping, pong))), **({"max_causation_depth": LIMIT} | settings))


async def recorded(app: App) -> list[RecordedEvent]:
    """All events of the log."""
    running = app._running
    assert running is not None
    return (await running.write_store.read(ALL_EVENTS)).events


async def depths(app: App) -> list[int]:
    """The causation depths of all events, in order."""
    return [event.metadata.depth for event in await recorded(app)]


async def follower(app: App, name: str) -> FollowerStatus:
    return next(each for each in (await app.status()).followers if each.name == name)


async def is_paused(app: App, name: str) -> bool:
    return (await follower(app, name)).paused


async def pause_of(app: App, name: str) -> Pause:
    """The pause of a policy, once it is paused."""
    await until(lambda: is_paused(app, name), f"{name} is paused")
    pause = (await follower(app, name)).pause
    assert pause is not None
    return pause


async def idle(app: App, *names: str) -> None:
    """Wait until these followers have taken the whole log, what they answered included."""

    async def done() -> bool:
        status = await app.status()
        return all(each.lag == 0 and each.state in _AT_THE_HEAD for each in status.followers if each.name in names)

    await until(done, "nothing is left to do")

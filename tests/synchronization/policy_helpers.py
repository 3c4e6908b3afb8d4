"""Policies that answer counts with larger counts, and what tests ask about them."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from msgspec import Struct

from tests.sample_domains.counter_app_helpers import until
from tests.sample_domains.counters import Count, Counted, CounterId, Ended, Ignored, count, counters
from twofold.app import App
from twofold.domain.event_query import ALL_EVENTS
from twofold.domain.module import Module
from twofold.domain.policy import Later, Policy
from twofold.health import FollowerStatus
from twofold.testing import FrozenWorld

MARK = 1_000
"""A policy answers with counts above this, so that it does not react to its own answers."""


class Note(Struct, frozen=True):
    """Notes an amount on one counter."""

    counter: CounterId
    by: int


class Noted(Struct, frozen=True):
    counter: CounterId
    by: int


class Pay(Struct, frozen=True):
    """Pays an amount on one counter: an event of another type."""

    counter: CounterId
    by: int


class Paid(Struct, frozen=True):
    counter: CounterId
    by: int


def note(command: Note) -> Noted:
    return Noted(command.counter, command.by)


def pay(command: Pay) -> Paid:
    return Paid(command.counter, command.by)


def notes(*amounts: int) -> list[Note]:
    """A note for each amount, each on its own counter."""
    return [Note(f"n-{by}", by) for by in amounts]


def with_keys(react: Callable[..., Awaitable[Any]], **options: Any) -> Module:
    """A policy that reacts to notes (and payments): many counters at the same time, those of one counter in order."""
    policies = [Policy("answers", react, **({"key": CounterId} | options))]
    events = [Noted, Paid, Counted, Ended, Ignored]
    return Module("notes", events=events, decisions=[note, pay, count], policies=policies)


def with_policy(react: Callable[..., Awaitable[Any]], **options: Any) -> Module:
    return counters(policies=[Policy("answers", react, **options)])


async def answers(app: App) -> list[int]:
    running = app._running
    assert running is not None
    events = [app.events.decode(recorded) for recorded in (await running.write_store.read(ALL_EVENTS)).events]
    return [event.by for event in events if isinstance(event, Counted) and event.by >= MARK]


async def policy_of(app: App) -> FollowerStatus:
    return next(follower for follower in (await app.status()).followers if follower.kind == "policy")


async def react_to(app: App) -> None:
    """Wait until the policy has read the whole log, its own answers included."""

    async def done() -> bool:
        status = await policy_of(app)
        return status.lag == 0 and status.state == "up-to-date"

    await until(done, "reacted")


async def nothing_parked(app: App) -> None:
    async def none() -> bool:
        return (await policy_of(app)).parked == ()

    await until(none, "nothing is parked")


async def parked_keys(app: App) -> list[str]:
    return [parked.key for parked in (await policy_of(app)).parked]


async def passes(world: FrozenWorld, app: App, seconds: float) -> None:
    """Let time pass, and wait until everything that is due by then has happened."""
    await world.advance(seconds)
    await world.settle()


async def remind(event: Counted) -> Later | None:
    """Answer later: the larger the count, the sooner."""
    return Later(Count(["later"], MARK + event.by), timedelta(seconds=100 - event.by)) if event.by < MARK else None

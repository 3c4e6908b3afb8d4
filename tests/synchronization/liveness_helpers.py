"""An app with one projection and one policy, and what its health is asked for over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.sample_domains.counters import Counted, CounterId, Ended, add_up, count, total_of
from tests.synchronization.cluster_helpers import shares
from twofold.app import App
from twofold.domain.events import RecordedEvent
from twofold.domain.module import Module
from twofold.domain.policy import Policy
from twofold.domain.projection import Projection
from twofold.health import FollowerStatus
from twofold.http import asgi
from twofold.settings import Settings
from twofold.synchronization.work_unit import WorkUnit
from twofold.synchronization.worker import Worker
from twofold.world import World

STALL = 0.3
TOTALS = {"name": "totals", "kind": "projection"}
WATCH = {"name": "watch", "kind": "policy"}


async def react(event: Counted, recorded: RecordedEvent) -> None:
    return None


def counters(
    *,
    world: World | None = None,
    fold: Callable[..., Any] = add_up,
    settings: dict[str, Any] | None = None,
    **given: Any,
) -> App:
    """The counters with one projection and one policy, in memory."""
    module = Module(
        "counters",
        events=[Counted, Ended],
        decisions=[count],
        projections=[Projection("totals", fold, key=CounterId, **given)],
        policies=[Policy("watch", react)],
        queries=[total_of],
    )
    chosen = Settings(**({"poll_seconds": 0.02, "fold_retries": 0} | (settings or {})))
    return App(module, write_store="memory:", read_store="memory:", settings=chosen, world=world)


@asynccontextmanager
async def asked(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who asks a running app over HTTP."""
    transport = httpx.ASGITransport(asgi(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
        yield http


async def follower(app: App, name: str = "totals") -> FollowerStatus:
    return next(each for each in (await app.status()).followers if each.name == name)


def worker_of(app: App, name: str) -> Worker:
    return next(worker for share, worker in shares(app).items() if share.name == name)


async def caught_up(app: App) -> bool:
    status = await app.status()
    return all(each.position == status.head for each in status.followers)


async def others_caught_up(app: App, name: str) -> bool:
    status = await app.status()
    return all(each.position == status.head for each in status.followers if each.name != name)


async def level(http: httpx.AsyncClient) -> str:
    answer = await http.get("/health/ready")
    assert answer.status_code == 200
    return str(answer.json()["level"])


async def only_reported(app: App, *beginnings: str) -> bool:
    """Whether exactly these problems are reported, by the beginnings of their messages.

    On a busy machine healthy followers may be reported, too, until they have caught up.
    """
    messages = sorted(await problems(app))
    return len(messages) == len(beginnings) and all(map(str.startswith, messages, sorted(beginnings)))


async def problems(app: App) -> list[str]:
    return [problem.message for problem in (await app.status()).health.problems]


def hanging(app: App, share: WorkUnit, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """It waits for an answer that never comes."""
    follower, go_on = shares(app)[share].follower, asyncio.Event()
    apply = follower.apply

    async def hangs(*given: Any) -> None:
        await go_on.wait()
        await apply(*given)

    patch.setattr(follower, "apply", hangs)
    return go_on.set

"""Texts of errors are for operators: others see what is wrong, and not what the user's functions and stores say."""

from typing import Annotated

import httpx
import msgspec
import pytest
from msgspec import Struct

from tests.sample_domains.counter_app_helpers import until
from twofold import App, Module, Projection, Settings, Tag
from twofold.follower_status import build_status, follower_status, partition_status
from twofold.health import HealthProblem, HealthReport
from twofold.http import Api, Trust, asgi
from twofold.http.public_reports import without_texts
from twofold.read_store.port import Parked
from twofold.status import Status
from twofold.synchronization.cluster_state import Pause
from twofold.synchronization.outage import Outage
from twofold.synchronization.policy_rows import RejectedCommand

SECRET = "secret-of-the-house"
ItemId = Annotated[str, Tag("item")]
ROUTES = (
    "/status",
    "/health/ready",
    "/projections",
    "/projections/items",
    "/projections/items/parked",
    "/projections/items/actions",
)


class Added(Struct, frozen=True):
    item_id: ItemId


class Add(Struct, frozen=True):
    item_id: ItemId


class Item(Struct, frozen=True):
    item_id: str


def add(command: Add) -> Added:
    return Added(command.item_id)


def fold(row: Item | None, event: Added) -> Item | None:
    raise ValueError(SECRET)


async def parked_and_paused() -> App:
    app = App(
        Module("items", events=[Added], decisions=[add], projections=[Projection("items", fold, key=ItemId)]),
        write_store="memory:",
        read_store="memory:",
        settings=Settings(fold_retries=0, breaker_share=1.0),
    )
    await app.start()
    await app.send(Add("i-1"))

    async def is_parked() -> bool:
        return bool((await app.status()).followers[0].parked_count)

    await until(is_parked, "the key is parked")
    await app.projections.pause("items", reason=SECRET)
    return app


def client(api: Api, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(api, client=(address, 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://testserver")


async def test_callers_of_other_machines_see_no_texts_of_errors() -> None:
    app = await parked_and_paused()
    proxied = asgi(app, trust=Trust(proxies=frozenset({"127.0.0.2"})))
    others = [
        (asgi(app), "203.0.113.9", {}),
        (asgi(app), "127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}),
        (asgi(app), "127.0.0.1", {"Forwarded": "for=127.0.0.1"}),
        (proxied, "127.0.0.2", {"X-Forwarded-For": "203.0.113.9"}),
    ]
    try:
        for route in ROUTES:
            async with client(asgi(app), "127.0.0.1") as local:
                assert SECRET in (await local.get(route)).text, route
            for api, address, headers in others:
                async with client(api, address) as other:
                    answer = await other.get(route, headers=headers)
                    assert answer.status_code == (200 if route.startswith("/health") else 403)
                    assert SECRET not in answer.text, (route, address)
        async with client(asgi(app), "203.0.113.9") as other:
            health = (await other.get("/health/ready")).json()
            assert (health["level"], health["problem_count"]) == ("degraded", 2)
            assert {each["code"] for each in health["problems"]} == {"paused", "parked"}
    finally:
        await app.stop()


async def test_a_process_that_is_not_ready_says_so_without_texts() -> None:
    app = App(Module("empty"), write_store="memory:", read_store="memory:")
    async with client(asgi(app), "203.0.113.9") as other:
        answer = await other.get("/health/ready")
    assert answer.status_code == 503


TEXTS = Status(
    log="log",
    node="node",
    head=1,
    commands=0,
    rejected=0,
    queries=0,
    uptime=1.0,
    health=HealthReport(
        level="degraded",
        command_side="ready",
        query_side="degraded",
        problems=(HealthProblem(code="parked", level="degraded", side="query", subject="items", message=SECRET),),
        problem_count=1,
    ),
    followers=[
        follower_status(
            "items",
            "policy",
            [
                partition_status("", position=1, lag=(1, 1.0), state="stopped", owner=None, error=SECRET),
            ],
            [Parked("i-1", 1, SECRET, 0)],
            pause=Pause(SECRET, None, 0),
            outage=Outage(0, SECRET, 1, 1, 1.0),
            rejected=[RejectedCommand("c", "add", 1, "code", SECRET, 0)],
        )
    ],
    builds=[
        build_status(
            "items",
            2,
            version=1,
            state="building",
            partitions=[(0, [Parked("i-1", 1, SECRET, 0)])],
            head=1,
            error=SECRET,
        )
    ],
)


def test_no_part_of_a_status_keeps_a_text() -> None:
    whole, hidden = (msgspec.json.encode(each).decode() for each in (TEXTS, without_texts(TEXTS)))
    assert whole.count(SECRET) >= 9
    assert SECRET not in hidden


def test_what_has_no_error_still_has_none() -> None:
    status = partition_status("", position=1, lag=(0, 0.0), state="following", owner=None)
    assert without_texts(status) == status


@pytest.mark.parametrize("field", ["position", "lag", "state", "stalled", "owner"])
def test_figures_are_kept(field: str) -> None:
    before, after = TEXTS.followers[0], without_texts(TEXTS).followers[0]
    assert getattr(before, field) == getattr(after, field)

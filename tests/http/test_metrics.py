"""What Prometheus collects is what the stores hold at that moment, in its own format, under labels that do not grow."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from tests.http.bank_server import SHORT, open_bank
from tests.http.http_helpers import DEPOSIT, caught_up, deposit, do, problem
from tests.sample_domains import bank
from tests.sample_domains.counter_app_helpers import until
from twofold import App, Unavailable
from twofold.follower_status import build_status, partition_status
from twofold.http import Api, asgi
from twofold.http.metrics import exposition
from twofold.status import Status
from twofold.telemetry.families import status_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Series:
    """Every series by its name and labels. Fails for what Prometheus would not read, or for a series reported twice."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def shown(status: Status) -> str:
    """The metrics of a status as Prometheus gets them."""
    return exposition(status_families(status)).decode()


async def scrape(http: httpx.AsyncClient) -> Series:
    answer = await http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.headers["cache-control"] == "no-store"
    return read(answer.text)


def of(series: Series, metric: str, **labels: str) -> float:
    return series[f"twofold_{metric}", frozenset(labels.items())]


BALANCES = {"name": "balances", "kind": "projection"}


async def test_the_numbers_of_a_healthy_app(inside: httpx.AsyncClient) -> None:
    for n in range(3):
        await deposit(inside, f"a{n}")
    await inside.post("/commands/withdraw", json={"account_id": "poor", "cents": 1})
    await until(lambda: caught_up(inside), "caught up")
    await inside.get("/queries/balances")
    reported = await scrape(inside)
    assert of(reported, "head_position") == 3
    assert of(reported, "commands_total", command="deposit", outcome="written") == 3
    assert of(reported, "commands_total", command="withdraw", outcome="rejected") == 1
    assert of(reported, "queries_total", query="balances", outcome="answered") == 1
    assert (of(reported, "ready"), of(reported, "problems")) == (1, 0)
    # A second node and a long boundary have tests of their own: tests/end_to_end.
    assert of(reported, "reservations_total") == 0
    for outcome in ("stored", "used", "ignored", "failed"):
        assert of(reported, "snapshots_total", outcome=outcome) == 0
    for labels in (BALANCES, {"name": "advisor", "kind": "policy"}):
        assert of(reported, "follower_position", **labels) == 3
        for still in ("lag_events", "lag_seconds", "stalled_seconds", "parked_keys", "waiting_events"):
            assert of(reported, f"follower_{still}", **labels) == 0
    assert of(reported, "uptime_seconds") > 0


async def test_lag_and_parked_keys_are_those_of_the_stores_at_the_scrape(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cents in (1, 2, 3):
        await deposit(inside, "poison", cents)
    await until(lambda: caught_up(inside), "caught up")
    reported = await scrape(inside)
    assert (of(reported, "follower_parked_keys", **BALANCES), of(reported, "follower_waiting_events", **BALANCES)) == (
        1,
        2,
    )
    running = app._running
    assert running is not None
    for worker in running.synchronization.workers:
        monkeypatch.setattr(worker, "_held", lambda: False)
    for n in range(5):
        await deposit(inside, "ann")
        reported = await scrape(inside)
        assert (of(reported, "head_position"), of(reported, "follower_lag_events", **BALANCES)) == (4 + n, 1 + n)
    assert of(reported, "follower_lag_seconds", **BALANCES) > 0
    monkeypatch.undo()
    monkeypatch.setattr(bank, "POISONED", set())
    await do(inside, "balances", "retry", {"key": "poison"})
    await until(lambda: caught_up(inside), "caught up")
    reported = await scrape(inside)
    assert of(reported, "follower_parked_keys", **BALANCES) == of(reported, "follower_lag_events", **BALANCES) == 0


async def test_partitions_are_told_where_there_are_several(inside: httpx.AsyncClient) -> None:
    await deposit(inside, "ann")
    assert not [name for name, _ in await scrape(inside) if name.startswith("twofold_partition_")]
    await do(inside, "balances", "split", {"partition": "0-4096"})
    await until(lambda: two_told(inside), "split")
    reported = await scrape(inside)
    for partition in ("0-2048", "2048-4096"):
        assert of(reported, "partition_position", name="balances", partition=partition) == 1


async def two_told(http: httpx.AsyncClient) -> bool:
    return len([name for name, _ in await scrape(http) if name == "twofold_partition_position"]) == 2


async def test_a_generation_under_way_and_one_that_is_kept_are_told_by_their_state(inside: httpx.AsyncClient) -> None:
    await deposit(inside, "ann")
    await do(inside, "balances", "rebuild", {})
    await until(lambda: told_of_build(inside, "building"), "built")
    await do(inside, "balances", "switch", {"force": True})
    await until(lambda: told_of_build(inside, "standby"), "standby")
    assert of(await scrape(inside), "build_generation", name="balances", state="standby") == 1


async def told_of_build(http: httpx.AsyncClient, state: str) -> bool:
    reported = await scrape(http)
    where = "twofold_build_lag_events", frozenset({("name", "balances"), ("state", state)})
    return reported.get(where) == 0


async def test_what_callers_send_makes_no_new_series(inside: httpx.AsyncClient) -> None:
    async def send(n: int) -> None:
        await deposit(inside, f"account-{n}")
        await inside.get(f"/queries/nope-{n}")
        await inside.post(f"/commands/nope-{n}", json={})
        await inside.request(f"METHOD{n}", f"/pages/{n}", headers={"host": "testserver"})
        await inside.post("/projections/balances/retry", json={"key": f"key-{n}"})

    await send(0)
    await scrape(inside)
    before = (await scrape(inside)).keys()
    for n in range(1, 50):
        await send(n)
    assert (await scrape(inside)).keys() == before


async def test_ten_thousand_paths_and_types_make_no_new_series(inside: httpx.AsyncClient, api: Api) -> None:
    """Straight at what counts, where a request costs little enough for so many of them."""

    async def drop(message: Any) -> None:
        return None

    telemetry = api.wire.app.telemetry
    before = (await scrape(inside)).keys()
    for n in range(10_000):
        kind = type(f"Type{n}", (), {})
        telemetry.conflicted(kind)
        scope = {"type": "http", "method": f"M{n}", "path": f"/{n}", "raw_path": f"/{n}".encode(), "headers": []}
        request = api.observer.begin(scope, drop)
        await request.send({"type": "http.response.start", "status": 600 + n, "headers": []})
        request.end(f"/{n}")
    found = (await scrape(inside)).keys() - before
    assert {(name, *sorted(labels)) for name, labels in found} == {
        ("twofold_http_requests_total", ("route", "other"), ("status", "other")),
        ("twofold_http_requests_total", ("route", "/metrics"), ("status", "200")),
    }


async def test_a_process_tells_no_more_series_than_it_may(app: App) -> None:
    status = await app.status()
    (first, *_) = [each for each in status.followers if each.kind == "projection"]
    many = tuple(
        partition_status(f"{n}-{n + 1}", position=1, lag=(0, 0.0), state="up-to-date", owner="here") for n in range(256)
    )
    followers = [msgspec.structs.replace(first, name=f"p{n}", partitions=many) for n in range(20)]
    reported = read(shown(msgspec.structs.replace(status, followers=followers)))
    assert not [name for name, _ in reported if name.startswith("twofold_partition_")]
    assert {dict(labels).get("name") for name, labels in reported if name == "twofold_follower_position"} == {
        f"p{n}" for n in range(20)
    }
    reported = read(shown(msgspec.structs.replace(status, followers=followers[:1])))
    assert len([name for name, _ in reported if name == "twofold_partition_position"]) == 256


async def test_a_series_is_never_told_twice_whatever_generations_there_are(app: App) -> None:
    status = await app.status()
    builds = [build_status("balances", n, version=1, state="standby", partitions=[(n, ())], head=4) for n in (4, 2, 3)]
    reported = read(shown(msgspec.structs.replace(status, builds=builds)))
    assert of(reported, "build_generation", name="balances", state="standby") == 4


async def test_names_are_told_as_they_are_whatever_letters_they_have(app: App) -> None:
    status = await app.status()
    odd = 'a"b\\c\nd ü'
    followers = [msgspec.structs.replace(each, name=odd) for each in status.followers[:1]]
    reported = read(shown(msgspec.structs.replace(status, followers=followers)))
    assert {dict(labels)["name"] for name, labels in reported if name == "twofold_follower_position"} == {odd}


async def test_nothing_of_ours_is_left_in_the_global_registry(inside: httpx.AsyncClient) -> None:
    await scrape(inside)
    assert not [each.name for each in REGISTRY.collect() if each.name.startswith("twofold")]


async def test_a_store_that_is_away_makes_its_side_not_ready(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scrape(inside)
    running = app._running
    assert running is not None

    async def away() -> Any:
        raise Unavailable("the read store is away")

    monkeypatch.setattr(running.read_store, "checkpoints", away)
    series = await scrape(inside)
    assert (of(series, "ready"), of(series, "problems")) == (0, 1)
    assert (of(series, "health_level", side="command"), of(series, "health_level", side="query")) == (2, 0)


async def test_a_process_that_is_about_to_stop_is_not_ready(inside: httpx.AsyncClient, api: Api) -> None:
    assert of(await scrape(inside), "ready") == 1
    api.drain()
    assert of(await scrape(inside), "ready") == 0


async def test_parameters_are_refused(inside: httpx.AsyncClient) -> None:
    assert problem(await inside.get("/metrics?name=x"), 400)["field"] == "name"


@pytest.fixture
async def with_objective() -> AsyncIterator[App]:
    async with open_bank(freshness=0.05) as app:
        yield app


async def test_an_objective_is_told_beside_the_lag_that_misses_it(
    with_objective: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = with_objective
    transport = httpx.ASGITransport(asgi(app, limits=SHORT))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
        running = app._running
        assert running is not None
        for worker in running.synchronization.workers:
            monkeypatch.setattr(worker, "_held", lambda: False)
        await http.post("/commands/deposit", json=DEPOSIT)
        async with asyncio.timeout(10):
            while of(reported := await scrape(http), "follower_lag_seconds", **BALANCES) <= 0.05:
                pass
        assert of(reported, "follower_freshness_objective_seconds", **BALANCES) == 0.05
        assert not [
            labels for name, labels in reported if name.endswith("objective_seconds") and ("name", "advisor") in labels
        ]
        assert (of(reported, "problems"), of(reported, "ready"), of(reported, "health_level", side="query")) == (
            1,
            1,
            1,
        )

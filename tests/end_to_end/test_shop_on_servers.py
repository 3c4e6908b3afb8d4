"""The shop, unchanged, on a log in PostgreSQL and read models on each kind of server: the same exact totals."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from shop import open_shop, replay
from tests.servers.cassandra import fresh_keyspace
from tests.servers.mongodb import fresh_database
from tests.servers.postgres import Postgres, fresh_schema
from tests.write_store.postgres_helpers import fresh_log
from twofold import App

TOTALS = {"orders": 6_919, "customers": 2_357, "cds": 16_479, "revenue_cents": 24_409_194, "free_orders": 8}
QUESTIONS: dict[str, dict[str, Any]] = {
    "totals": {},
    "best-customers": {"size": 200},
    "revenue-by-day": {"size": 1_000},
    "stock-levels": {"size": 100},
    "orders-of-customer": {"customer_id": "cdnow-1901", "size": 60},
    "customer-history": {"customer_id": "cdnow-1901"},
    "order-by-id": {"order_id": "cdnow-00001"},
    "registered-customers": {},
}


@pytest.fixture(params=["postgresql", "mongodb", "cassandra"])
def read_store(request: pytest.FixtureRequest, postgres_newest: Postgres) -> str:
    """The URL of an empty read store of each kind."""
    match request.param:
        case "postgresql":
            return f"{postgres_newest.dsn}?schema={fresh_schema()}"
        case "mongodb":
            url: str = request.getfixturevalue("mongodb").url_of(fresh_database())
            return url
        case _:
            keyspace: str = request.getfixturevalue("cassandra").url(fresh_keyspace())
            return keyspace


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the shop answers embedded in memory; filled by the first test that asks."""
    answers: dict[str, Any] = {}
    yield answers


@pytest.mark.timeout(600)
async def test_the_real_orders_come_to_the_same_answers(
    postgres_newest: Postgres, read_store: str, tmp_path: Path, expected: dict[str, Any]
) -> None:
    if not expected:
        async with open_shop(write_store="memory:", read_store="memory:", outbox=tmp_path / "none") as embedded:
            await replay(embedded)
            expected |= await answers(embedded)
    write_store = await fresh_log(postgres_newest.dsn)
    async with open_shop(write_store=write_store, read_store=read_store, outbox=tmp_path / "outbox") as app:
        await replay(app)
        totals = await answers(app)
    assert {name: totals["totals"][name] for name in TOTALS} == TOTALS
    assert totals == expected
    with served(write_store, read_store, tmp_path) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            for name, parameters in QUESTIONS.items():
                said = (await client.get(f"/queries/{name}", params=parameters)).json()
                assert said["answer"] == expected[name], name


async def answers(app: App) -> dict[str, Any]:
    """What the shop answers to every kind of question once it has seen all orders, as it goes over the wire."""
    token = app.token((await app.log()).head)
    totals: dict[str, Any] = {}
    for name, parameters in QUESTIONS.items():
        query = app.queries.by_name[name].query(**parameters)
        answer = await app.ask(query, position=token, timeout=120)
        totals[name] = json.loads(app.messages.encode(answer.value))
    return totals


@contextmanager
def served(write_store: str, read_store: str, folder: Path) -> Iterator[str]:
    """`twofold serve shop:app` with these stores."""
    twofold = str(Path(sys.executable).parent / "twofold")
    command = [
        twofold,
        "serve",
        "shop:app",
        "--port",
        "0",
        "--json",
        "--write-store",
        write_store,
        "--read-store",
        read_store,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["data"]["url"]
        finally:
            process.terminate()
            process.wait(60)

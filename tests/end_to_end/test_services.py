"""Services of the shop behind nginx, on servers and beside one SQLite writer: each process ends in turn under load.

No command fails after retries, each customer sees what was just written, and the totals are exact.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.service_helpers import PATIENCE, Client, Load, Service, more_commands, replace_each
from tests.servers.fixtures import do_without
from tests.servers.mongodb import ReplicaSet, fresh_database
from tests.servers.nginx import Gateway
from tests.servers.postgres import Postgres
from tests.servers.reverse_proxy import HOW_TO_GET_ONE, find_proxy
from tests.write_store.postgres_helpers import fresh_log
from twofold.access.api_keys import create_key
from twofold.world import RealWorld

pytestmark = pytest.mark.timeout(600)


@asynccontextmanager
async def services(roles: Sequence[str], folder: Path, **stores: str) -> AsyncIterator[tuple[list[Service], Client]]:
    """One process for each entry of `roles`, behind the shipped nginx, and a client of it."""
    if find_proxy("nginx") is None:
        do_without(f"no nginx: {HOW_TO_GET_ONE['nginx']}")
    keys = folder / "keys.json"
    key = create_key(keys, RealWorld(), name="mover", roles=["staff", "operator"], days=1)
    environment = {"TWOFOLD_LEASE_SECONDS": "2", "SHOP_KEYS": str(keys), **stores}
    started = [Service(each, folder, **environment) for each in roles]
    ports = {
        role: [service.port for service in started if role in service.roles.split(",")]
        for role in ("command", "query", "console")
    }
    async with AsyncExitStack() as stack:
        for service in started:
            await service.start()
            stack.push_async_callback(_killed, service)
        gateway = stack.enter_context(Gateway(ports))
        client = Client(gateway.url, key)
        stack.push_async_callback(client.http.aclose)
        yield started, client


async def _killed(service: Service) -> None:
    if service.process is not None:
        service.process.kill()
        await asyncio.to_thread(service.process.wait, PATIENCE)
        assert service.process.stdout is not None
        service.process.stdout.close()


async def each_ends_in_turn(started: list[Service], client: Client) -> None:
    load, report = Load(client), list[str]()
    running = asyncio.create_task(load.run())
    await more_commands(client, 20)
    await replace_each(started, client, report)
    load.done.set()
    await running
    report.append(f"{client.commands} commands, {client.repeats} repeats")
    assert client.failed == [], report
    last = (await client.http.get("/events", params={"last": 0})).headers["twofold-position"]
    totals: dict[str, Any] = await client.ask("totals", position=last)
    assert {name: totals[name] for name in load.totals()} == load.totals(), report
    print("\n".join(report))  # noqa: T201 -- the figures, shown by `pytest -s`


async def test_two_of_each_on_postgresql_and_mongodb(
    postgres_newest: Postgres, mongodb: ReplicaSet, tmp_path: Path
) -> None:
    stores = {
        "TWOFOLD_WRITE_STORE": await fresh_log(postgres_newest.dsn),
        "TWOFOLD_READ_STORE": mongodb.url_of(fresh_database()),
    }
    roles = ["sync", "sync", "command", "command", "query", "query", "console"]
    async with services(roles, tmp_path, **stores) as (started, client):
        await each_ends_in_turn(started[:-1], client)
        status = (await client.http.get("/status")).json()
        assert status["health"]["problems"] == []
        assert {follower["state"] for follower in status["followers"]} == {"on-another-node"}


async def test_one_writer_and_two_readers_of_a_sqlite_log(tmp_path: Path) -> None:
    stores = {
        "TWOFOLD_WRITE_STORE": f"sqlite:///{tmp_path}/log.db",
        "TWOFOLD_READ_STORE": f"sqlite:///{tmp_path}/views.db",
    }
    async with services(["command,sync,console", "query", "query"], tmp_path, **stores) as (started, client):
        # The writer once by each signal.
        await each_ends_in_turn([started[0], started[1], started[2], started[0]], client)

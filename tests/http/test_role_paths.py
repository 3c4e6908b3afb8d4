"""What a process serves over HTTP: the paths of its roles, and for the others the name of the role that serves them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.http.bank_server import open_bank
from tests.http.http_helpers import DEPOSIT, problem
from twofold.http import asgi
from twofold.ui import console

PATHS = {
    "command": [("POST", "/commands/deposit"), ("POST", "/commands/no-such")],
    "query": [("GET", "/queries/balance-of?account_id=ann"), ("GET", "/queries/no-such")],
    "console": [
        *(("GET", path) for path in ("/projections", "/projections/balances", "/log", "/console/", "/console")),
        ("POST", "/projections/balances/pause"),
        ("POST", "/log/move"),
    ],
}
EVERYWHERE = ["/status", "/metrics", "/health/live", "/openapi.json", "/docs"]


@asynccontextmanager
async def bank_with(roles: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = open_bank()
    app.settings = msgspec.structs.replace(
        app.settings, roles=roles, write_store=f"sqlite:///{folder}/log.db", read_store=f"sqlite:///{folder}/views.db"
    )
    async with app:
        api = asgi(app, {"/console": console()} if "console" in app.roles else {})
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://testserver") as client:
            yield client


@pytest.mark.parametrize("roles", ["command", "query", "sync", "command,query", "sync,console"])
async def test_paths_of_other_roles_answer_421_and_name_the_role(roles: str, tmp_path: Path) -> None:
    async with bank_with(roles, tmp_path) as client:
        for role, paths in PATHS.items():
            for method, path in paths:
                answer = await client.request(method, path, json={} if method == "POST" else None)
                if role in roles:
                    assert answer.status_code != 421, path
                else:
                    said = problem(answer, 421)
                    assert f"needs the role '{role}'" in said["detail"], path
                    assert f"has only: {roles}" in said["detail"]
        for path in EVERYWHERE:
            assert (await client.get(path)).status_code == 200, path


@pytest.mark.parametrize("roles", ["command", "query", "sync", "sync,console", "command,query,sync,console"])
async def test_the_description_lists_what_the_process_serves_and_nothing_else(roles: str, tmp_path: Path) -> None:
    async with bank_with(roles, tmp_path) as client:
        document = (await client.get("/openapi.json")).json()
        for path, offered in document["paths"].items():
            real = path.replace("{name}", "balances")
            for method in offered:
                answer = await client.request(method.upper(), real, json={} if method == "post" else None)
                assert answer.status_code != 421, path
        words = {path.split("/")[1] for path in document["paths"]}
        assert ("commands" in words) == ("command" in roles)
        assert ("queries" in words) == ("query" in roles)
        assert ("projections" in words) == ("console" in roles)
        assert ("events" in words) == ("query" in roles or "console" in roles)
        schemas = document["components"]["schemas"]
        assert ("Receipt" in schemas) == ("command" in roles)
        text = (await client.get("/openapi.json")).text
        assert all(f'"#/components/schemas/{name}"' in text for name in schemas)


async def test_health_judges_the_sides_that_the_process_serves(tmp_path: Path) -> None:
    async with bank_with("command,sync", tmp_path) as client:
        report = (await client.get("/health/ready")).json()
        assert (report["level"], report["command_side"], report["query_side"]) == ("ready", "ready", None)
        assert (await client.get("/health/ready?side=command")).status_code == 200
        assert "role 'query'" in problem(await client.get("/health/ready?side=query"), 421)["detail"]
        assert 'twofold_health_level{side="query"}' not in (await client.get("/metrics")).text
        (await client.post("/commands/deposit?wait_for=balances", json=DEPOSIT)).raise_for_status()
    async with bank_with("query", tmp_path) as client:
        report = (await client.get("/health/ready")).json()
        assert (report["level"], report["command_side"], report["query_side"]) == ("ready", None, "ready")

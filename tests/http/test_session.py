"""A session: a browser logs in once, and a cookie that no script and no other site can use has the credentials."""

from pathlib import Path

import httpx
import pytest

from tests.http.access_helpers import client_of, guarded_bank
from twofold import Actor
from twofold.access.api_keys import ApiKeys, create_key, revoke_key
from twofold.world import RealWorld


def key_in(folder: Path) -> str:
    return create_key(folder / "keys.json", RealWorld(), name="otto", roles=["operator"], days=1)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_after_the_login_the_cookie_is_enough_until_the_logout(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    async with client_of(guarded_bank(authenticate=[ApiKeys(tmp_path / "keys.json")])) as (client, _):
        assert (await client.get("/session")).json() == {"actor": None, "roles": [], "login": True}
        assert (await client.get("/status")).status_code == 401
        begun = await client.post("/session/begin", headers=bearer(key))
        assert begun.json() == {"actor": "otto", "roles": ["operator"], "login": True}
        assert (await client.get("/status")).status_code == 200
        assert (await client.get("/session")).json()["actor"] == "otto"
        assert (await client.post("/session/end")).status_code == 200
        assert (await client.get("/status")).status_code == 401


async def test_the_cookie_is_for_this_host_and_for_no_script(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    app = guarded_bank(authenticate=[ApiKeys(tmp_path / "keys.json")])
    async with client_of(app) as (client, api):
        plain = (await client.post("/session/begin", headers=bearer(key))).headers["set-cookie"]
        assert plain == f"twofold_session={key}; Max-Age=43200; Path=/; HttpOnly; SameSite=Strict"
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="https://testserver") as secure:
            header = (await secure.post("/session/begin", headers=bearer(key))).headers["set-cookie"]
            assert header.startswith("__Host-twofold_session=") and header.endswith("; SameSite=Strict; Secure")
            # Another host of the domain can set the plain name, which is not looked at over TLS.
            forged = await secure.get("/status", headers={"cookie": f"twofold_session={key}"})
            assert forged.status_code == 401


async def test_a_page_of_another_site_can_neither_begin_nor_use_a_session(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    async with client_of(guarded_bank(authenticate=[ApiKeys(tmp_path / "keys.json")])) as (client, _):
        await client.post("/session/begin", headers=bearer(key))
        other = {"origin": "https://evil.example"}
        for path in ("/session/begin", "/session/end", "/projections/balances/pause"):
            response = await client.post(path, headers=other, json={})
            assert (response.status_code, response.json()["field"]) == (403, "Origin")


async def test_a_session_ends_when_its_key_is_revoked_and_is_nobody_afterwards(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    async with client_of(guarded_bank(authenticate=[ApiKeys(tmp_path / "keys.json")])) as (client, _):
        await client.post("/session/begin", headers=bearer(key))
        revoke_key(tmp_path / "keys.json", key.split("_")[1])
        while (await client.get("/session")).json()["actor"] is not None:
            pass
        assert (await client.get("/status")).status_code == 401
        # What needs no login is still answered: a browser sends the old cookie until it logs out.
        assert (await client.get("/queries/greeting")).json()["answer"] == "Hello."


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": "Basic YTpi"}, 401), (bearer("tf_1_2"), 401), (bearer("other"), 401)],
)
async def test_wrong_credentials_begin_no_session(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    key_in(tmp_path)
    async with client_of(guarded_bank(authenticate=[ApiKeys(tmp_path / "keys.json")])) as (client, _):
        response = await client.post("/session/begin", headers=headers)
        assert response.status_code == status and "set-cookie" not in response.headers


@pytest.mark.parametrize("token", ["x" * 3_801, "a b", "a;Path=/x", 'a"b'])
async def test_a_token_that_no_cookie_can_hold_is_refused(token: str) -> None:
    async with client_of(guarded_bank(authenticate=[lambda headers: Actor("ann")])) as (client, _):
        response = await client.post("/session/begin", headers=bearer(token))
        assert (response.status_code, response.json()["field"]) == (400, "Authorization")


async def test_an_app_without_a_login_says_so(inside: httpx.AsyncClient) -> None:
    assert (await inside.get("/session")).json() == {"actor": None, "roles": [], "login": False}
    assert (await inside.post("/session/begin", headers=bearer("tf_1_2"))).status_code == 401

"""The access matrix: every route, and every operator action, for every caller."""

from typing import Any

import pytest

from tests.http.access_helpers import CALLERS, client_of, credentials, guarded_bank
from twofold.access.rules import OPERATOR_ACTIONS, AccessRules, Right
from twofold.http import Api
from twofold.http.openapi_security import right_of
from twofold.http.projection_routes import REBUILD, VERBS

_FOLLOWERS = ["balances", "advisor"]
_PUBLIC = [
    *("", "/", "/docs", "/docs/docs.css", "/docs/docs.js", "/openapi.json"),
    *("/health/live", "/health/ready", "/session", "/session/begin", "/session/end"),
]
_INSPECT = ["/log", "/metrics", "/projections", "/status"]

MAY: dict[str, set[str | None]] = {
    **{path: {None, "ann", "clara", "otto", "rita"} for path in _PUBLIC},
    **{path: {"otto", "rita"} for path in _INSPECT},
    "/commands/deposit": {"ann", "clara"},
    "/commands/transfer": {"ann"},
    "/commands/close": {"clara"},
    "/commands/withdraw": set(),
    "/queries/greeting": {None, "ann", "clara", "otto", "rita"},
    "/queries/own-balance": {"ann", "clara", "otto", "rita"},
    "/queries/balance-of": {"clara"},
    "/queries/balances": {"clara"},
    "/events": {"rita"},
    "/log/move": {"otto"},
    f"/projections/{REBUILD}": {"otto"},
    **{f"/projections/{name}": {"otto", "rita"} for name in ("balances", "advisor")},
    **{
        f"/projections/{name}/{word}": {"otto", "rita"}
        for name in ("balances", "advisor")
        for word in ("parked", "actions")
    },
    **{
        f"/projections/{name}/{verb}": {"otto", "rita"} if verb == "pause" else {"otto"}
        for name in _FOLLOWERS
        for verb in VERBS
    },
}
"""Who may use which path, written down by hand from the rules: not computed by the code under test."""


def test_the_operator_actions_of_rules_are_those_that_exist() -> None:
    assert {*VERBS, "move-log"} == OPERATOR_ACTIONS


async def test_every_route_is_in_the_matrix_and_described_with_its_right() -> None:
    async with client_of(guarded_bank()) as (client, api):
        assert set(api._routes) == set(MAY)
        described = (await client.get("/openapi.json")).json()["paths"]
        for path, route in api._routes.items():
            parts = path.split("/")
            template = path if path in described else "/".join([*parts[:2], "{name}", *parts[3:]])
            if path in ("", "/", "/openapi.json") or path.startswith("/docs"):
                continue
            assert right_of(template) == route.right, path
            assert template in described, path


async def outcomes(api: Api, client: Any) -> dict[str, set[str | None]]:
    """By path: the callers that were not refused for who they are."""
    admitted: dict[str, set[str | None]] = {path: set() for path in api._routes}
    for path, route in api._routes.items():
        for caller in CALLERS:
            if path == "/session/begin":
                # It answers 401 to whom it cannot log in, whoever that is: it has tests of its own.
                admitted[path].add(caller)
                continue
            # The body fits nothing: who is admitted gets 400 or 404, and nothing is done.
            sent: dict[str, Any] = {"headers": credentials(caller)}
            if route.method == "POST":
                sent = {"content": b'{"": 0}', "headers": credentials(caller) | {"content-type": "application/json"}}
            response = await client.request(route.method, path, **sent)
            assert response.status_code < 500, (path, caller, response.text)
            refused = {401, 403}
            if response.status_code in refused:
                assert response.status_code == (401 if caller is None else 403)
                assert ("www-authenticate" in response.headers) == (caller is None)
                assert set(response.json()) == {"type", "title", "status", "detail"}
            else:
                admitted[path].add(caller)
    return admitted


async def test_each_caller_reaches_what_the_rules_allow_and_nothing_else() -> None:
    async with client_of(guarded_bank()) as (client, api):
        assert await outcomes(api, client) == MAY


async def test_the_matrix_notices_a_route_without_a_check() -> None:
    async with client_of(guarded_bank()) as (client, api):
        for path in ("/events", "/commands/close", "/projections/balances/drop"):
            before = api._routes[path].right
            api._routes[path].right = Right("public")
            assert (await outcomes(api, client))[path] == set(CALLERS) != MAY[path]
            api._routes[path].right = before


async def test_the_matrix_notices_rules_that_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AccessRules, "check", lambda *_: None)
    async with client_of(guarded_bank()) as (client, api):
        assert await outcomes(api, client) != MAY


async def test_refused_commands_and_operator_actions_do_nothing() -> None:
    app = guarded_bank()
    async with client_of(app) as (client, _):
        for caller in CALLERS:
            body = {"account_id": "ann", "cents": 5}
            response = await client.post("/commands/withdraw", json=body, headers=credentials(caller))
            assert response.status_code in (401, 403)
        for verb in set(VERBS) - {"pause"}:
            body = {"key": "ann"} if verb in ("retry", "skip", "repair") else {}
            response = await client.post(f"/projections/balances/{verb}", json=body, headers=credentials("rita"))
            assert response.status_code == 403, verb
        assert (await app.log()).head == 0
        assert await app.projections.actions("balances") == {}

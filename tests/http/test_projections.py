"""Projections and policies are described over HTTP, and a request about them that is not valid is refused."""

from collections.abc import Mapping

import httpx
import pytest

from tests.http.http_helpers import BODIES, actions, caught_up, deposit, do, follower, problem
from tests.http.test_security import REFUSED, filled
from tests.sample_domains import bank
from tests.sample_domains.counter_app_helpers import until
from twofold import App, Module, Policy, Projection, WiringError
from twofold.http import asgi
from twofold.http.projection_routes import VERBS


async def test_all_projections_and_policies_are_listed_with_their_partitions(inside: httpx.AsyncClient) -> None:
    await deposit(inside, "ann")
    await until(lambda: caught_up(inside), "caught up")
    body = (await inside.get("/projections")).json()
    assert (body["head"], body["builds"], body["health"]["problems"]) == (1, [], [])
    by_name = {report["name"]: report for report in body["followers"]}
    assert {name: report["kind"] for name, report in by_name.items()} == {"advisor": "policy", "balances": "projection"}
    (whole,) = by_name["balances"]["partitions"]
    assert (whole["partition"], whole["position"], whole["lag"], whole["state"]) == ("0-4096", 1, 0, "up-to-date")
    assert whole["owner"] is not None
    assert await follower(inside, "balances") == by_name["balances"]


@pytest.mark.parametrize(
    "path", ["/projections/nope", "/projections/nope/actions", "/projections/", "/projections/b%61lances"]
)
async def test_an_unknown_name_is_not_found(inside: httpx.AsyncClient, path: str) -> None:
    problem(await inside.get(path), 404)


@pytest.mark.parametrize("verb", VERBS)
async def test_nothing_is_done_under_an_unknown_name(inside: httpx.AsyncClient, verb: str) -> None:
    await do(inside, "nope", verb, BODIES.get(verb, {}), 404)


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"retry", "skip", "pause", "resume"}))
async def test_a_policy_has_no_generations_rows_and_partitions(inside: httpx.AsyncClient, verb: str) -> None:
    details = await do(inside, "advisor", verb, BODIES.get(verb, {}), 404)
    assert "There are: balances." in details["detail"]


def test_a_name_that_would_hide_a_path_is_refused_with_the_cure() -> None:
    async def react(event: bank.Deposited) -> None:
        return None

    app = App(
        Module("m", events=bank.EVENTS, policies=[Policy("rebuild", react)]),
        write_store="memory:",
        read_store="memory:",
    )
    with pytest.raises(WiringError, match="Rename it"):
        asgi(app)


async def test_a_name_of_any_letters_has_a_path() -> None:
    odd = "a/b ?ü(1)"
    module = Module("m", events=bank.EVENTS, projections=[Projection(odd, bank.balance_of, key=bank.AccountId)])
    async with App(module, write_store="memory:", read_store="memory:") as app:
        transport = httpx.ASGITransport(asgi(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
            for spelt in ("a%2Fb%20%3F%C3%BC(1)", "a%2Fb%20%3F%C3%BC%281%29"):
                assert (await follower(http, spelt))["name"] == odd
            assert (await do(http, "a%2Fb%20%3F%C3%BC(1)", "rebuild", {}))["generations"] == {odd: 2}


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("retry", {}, "key"),
        ("retry", {"key": ""}, "key"),
        ("retry", {"key": "k" * 1025}, "key"),
        ("skip", {"key": 1}, "key"),
        ("skip", {"key": "a", "position": -1}, "position"),
        ("skip", {"key": "a", "kee": "b"}, "kee"),
        ("repair", {"key": None}, "key"),
        ("switch", {"force": "yes"}, "force"),
        ("switch", {"generation": "2"}, "generation"),
        ("switch", {"generation": 0}, "generation"),
        ("rebuild", {"name": "x"}, "name"),
        ("pause", {"reason": 1}, "reason"),
        ("pause", {"reason": "x" * 501}, "reason"),
        ("resume", {"skip": 0}, "skip"),
        ("resume", {"skip": "1"}, "skip"),
        ("split", {}, "partition"),
        ("split", {"partition": "half"}, "partition"),
        ("split", {"partition": "9-3"}, "partition"),
        ("merge", {"partition": "0-9999"}, "partition"),
    ],
)
async def test_an_invalid_body_is_refused_with_the_field_named(
    inside: httpx.AsyncClient, verb: str, body: object, field: str
) -> None:
    assert (await do(inside, "balances", verb, body, 400))["field"] == field
    assert await actions(inside, "balances") == []


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1001", "1e3", ""])
async def test_an_invalid_number_of_actions_is_refused(inside: httpx.AsyncClient, limit: str) -> None:
    assert problem(await inside.get("/projections/balances/actions", params={"limit": limit}), 400)["field"] == "limit"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("headers", REFUSED)
def test_a_page_of_another_site_can_do_nothing(http: httpx.Client, verb: str, headers: Mapping[str, str]) -> None:
    before = http.get("/projections/balances/actions").json()
    answer = http.post(f"/projections/balances/{verb}", json=BODIES.get(verb, {}), headers=filled(headers, http))
    assert problem(answer, 403)["field"] == "Origin"
    assert http.get("/projections/balances/actions").json() == before


@pytest.mark.parametrize("verb", VERBS)
def test_the_content_types_of_forms_are_refused(http: httpx.Client, verb: str) -> None:
    answer = http.post(f"/projections/balances/{verb}", content=b"{}", headers={"Content-Type": "text/plain"})
    problem(answer, 415)
    answer = http.get(f"/projections/balances/{verb}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")

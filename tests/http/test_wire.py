"""Who asks: established once for each request, then in events, operators' records, queries and limits."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from tests.http.access_helpers import Greeting, OwnBalance, client_of, credentials, guarded_bank
from tests.http.bank_server import SHORT
from tests.http.http_helpers import deposit, do
from tests.http.stream_client_helpers import StreamClient
from tests.sample_domains.bank import POISONED, Balances, Close, followed_bank
from twofold import ALL, ANYONE, Actor, Allow, ApiKeys, App, NotAuthenticated, WiringError
from twofold.access.api_keys import create_key, revoke_key
from twofold.http import Api, asgi
from twofold.http.api import ACTOR
from twofold.http.public_reports import HIDDEN
from twofold.world import RealWorld

DEPOSIT = {"account_id": "ann", "cents": 5}


async def test_without_authentication_every_caller_is_anonymous(inside: httpx.AsyncClient, app: App) -> None:
    await deposit(inside, "ann")
    (event,) = (await app.log()).events
    assert event.metadata.actor is None


async def test_commands_and_actions_carry_the_name_of_the_caller() -> None:
    app = guarded_bank()
    async with client_of(app) as (client, _):
        await client.post("/commands/deposit", json=DEPOSIT, headers=credentials("clara"))
        (event,) = (await app.log()).events
        assert event.metadata.actor == "clara"
        client.headers.update(credentials("otto"))
        await do(client, "balances", "rebuild", {})
        await do(client, "balances", "retry", {"key": "ben"}, 400)
        await client.post("/projections/rebuild", json={"names": ["balances"]})
        recorded = (await app.projections.actions("balances")).values()
        assert {action.actor for action in recorded} == {"otto"}
        assert {action.what for action in recorded} == {"rebuild", "retry"}


async def test_wrong_credentials_are_refused_and_not_taken_for_none() -> None:
    async with client_of(guarded_bank()) as (client, _):
        response = await client.get("/queries/greeting", headers={"x-caller": "eve"})
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        unknown = await client.get("/queries/greeting", headers={"authorization": "Basic YTpi"})
        assert unknown.status_code == 401 and "of no kind that this server knows" in unknown.json()["detail"]
        assert (await client.get("/queries/greeting")).json()["answer"] == "Hello."


async def test_a_query_is_limited_by_who_asks() -> None:
    app = guarded_bank()
    async with client_of(app) as (client, _):
        receipt = await client.post("/commands/deposit", json=DEPOSIT, headers=credentials("ann"))
        since = {"twofold-position": receipt.json()["token"]}
        own = await client.get("/queries/own-balance", headers=credentials("ann") | since)
        assert own.json()["answer"] == DEPOSIT
        assert (await client.get("/queries/own-balance", headers=credentials("clara") | since)).json()["answer"] is None
        greeted = await client.get("/queries/greeting", headers=credentials("clara"))
        assert greeted.json()["answer"] == "Hello, clara (clerk)."
        with pytest.raises(NotAuthenticated, match="'own-balance' depends on who asks"):
            await app.ask(OwnBalance())
        assert (await app.ask(OwnBalance(), actor="ann")).value.cents == 5


async def test_live_answers_of_one_actor_do_not_reach_another() -> None:
    app = guarded_bank()
    async with app:
        live = [app.live(Greeting(), actor=actor) for actor in (Actor("ann"), Actor("ben"), Actor("ann"), None)]
        answers = await asyncio.gather(*(anext(each) for each in live))
        assert [answer.value for answer in answers] == ["Hello, ann ().", "Hello, ben ().", "Hello, ann ().", "Hello."]
        assert answers[0] is answers[2]
        for each in live:
            await each.aclose()
        async with aclosing(app.live(Balances(), actor="ann")) as one, aclosing(app.live(Balances())) as other:
            # This query does not take the actor: its answer is computed once for both.
            first, second = await asyncio.gather(anext(one), anext(other))
            assert first is second


async def test_the_names_of_parked_keys_and_what_is_wrong_are_for_those_who_may_inspect() -> None:
    (poison,) = POISONED
    app = guarded_bank(access=[Allow(ANYONE, commands=ALL, queries=ALL), Allow("operator", inspect=True)])
    async with client_of(app) as (client, _):
        sent = await client.post("/commands/deposit?wait_for=balances", json={"account_id": poison, "cents": 1})
        since = {"twofold-position": sent.json()["token"]}
        for headers, names in ((since, []), (since | credentials("otto"), [poison])):
            answer = (await client.get("/queries/balances", headers=headers)).json()
            assert (answer["parked"], answer["parked_count"]) == (names, 1)
        anonymous = (await client.get("/health/ready")).json()
        assert {problem["message"] for problem in anonymous["problems"]} == {HIDDEN}
        assert "ValueError" not in (await client.get("/health/ready")).text
        shown = (await client.get("/health/ready", headers=credentials("otto"))).json()["problems"]
        assert HIDDEN not in {problem["message"] for problem in shown}
        # Probes have no credentials, and wrong ones must not make a node unready.
        assert (await client.get("/health/ready", headers={"x-caller": "eve"})).status_code == 200


async def test_who_may_act_but_not_inspect_gets_no_texts_of_errors() -> None:
    (poison,) = POISONED
    app = guarded_bank(access=[Allow(ANYONE, commands=ALL, operate=ALL), Allow("operator", inspect=True)])
    async with client_of(app) as (client, _):
        await client.post("/commands/deposit?wait_for=balances", json={"account_id": poison, "cents": 1})
        wrong = {"json": {"key": "nobody"}}
        assert poison not in (await client.post("/projections/balances/retry", **wrong)).text
        shown = await client.post("/projections/balances/retry", **wrong, headers=credentials("otto"))
        assert poison in shown.text and shown.status_code == 400
        moved = await client.post("/log/move", json={"to": "postgresql://user:secret@127.0.0.1:1/x"})
        assert (moved.status_code, moved.json()["detail"]) == (400, HIDDEN)


async def test_internal_messages_are_not_on_the_wire() -> None:
    app = App(
        followed_bank(internal=[Close, Balances]), write_store="memory:", read_store="memory:", access=[Allow("x")]
    )
    async with client_of(app) as (client, _):
        for path in ("/commands/close", "/queries/balances"):
            assert (await client.post(path, json={})).status_code == 404
            assert path not in (await client.get("/openapi.json")).json()["paths"]
        assert "/commands/deposit" in (await client.get("/openapi.json")).json()["paths"]
        await app.send(Close("ann"))
        assert (await app.ask(Balances())).value == []
    with pytest.raises(WiringError, match="no decision takes it"):
        App(followed_bank(internal=[int]))
    with pytest.raises(WiringError, match="Close is none of the commands"):
        App(followed_bank(internal=[Close]), access=[Allow("clerk", commands=[Close])])


async def test_the_receipt_of_one_caller_is_not_for_another() -> None:
    app = guarded_bank()
    async with client_of(app) as (client, _):
        key = {"idempotency-key": "k1"}
        first = await client.post("/commands/deposit", json=DEPOSIT, headers=credentials("ann") | key)
        again = await client.post("/commands/deposit", json=DEPOSIT, headers=credentials("ann") | key)
        assert again.json()["token"] == first.json()["token"] and again.headers["idempotent-replay"] == "true"
        other = await client.post("/commands/deposit", json=DEPOSIT, headers=credentials("clara") | key)
        assert (other.status_code, other.json()["type"]) == (422, "/docs#problem-command-id-reused")


async def test_a_header_that_is_repeated_is_not_read_as_one_of_its_values() -> None:
    async with client_of(guarded_bank()) as (client, _):
        twice = [("x-caller", "otto"), ("x-caller", "ann")]
        assert (await client.get("/status", headers=twice)).status_code == 401
        repeated = [("authorization", "Bearer a"), ("authorization", "Bearer b")]
        assert (await client.get("/queries/greeting", headers=repeated)).status_code == 400


@pytest.mark.parametrize(
    ("client_address", "headers"),
    [("203.0.113.9", {}), ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}), ("::ffff:10.1.1.1", {})],
)
async def test_an_app_without_rules_answers_its_own_machine_only(
    api: Api, client_address: str, headers: dict[str, str]
) -> None:
    transport = httpx.ASGITransport(api, client=(client_address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as client:
        for method, path in (("GET", "/status"), ("GET", "/events"), ("POST", "/commands/deposit")):
            response = await client.request(method, path, json=None if method == "GET" else DEPOSIT)
            assert (response.status_code, "no access rules" in response.json()["detail"]) == (403, True)
        assert (await client.get("/health/ready")).status_code == 200


async def test_a_stream_ends_when_its_caller_may_not_read_it_any_more(tmp_path: Path) -> None:
    key = create_key(tmp_path / "keys.json", RealWorld(), name="rita", roles=["auditor"], days=1)
    app = guarded_bank(authenticate=[ApiKeys(tmp_path / "keys.json")])
    async with app:
        begun = asyncio.Event()
        credentials = [(b"authorization", f"Bearer {key}".encode())]
        client = StreamClient(asgi(app, limits=SHORT), headers=credentials, received=begun.set)
        reading = asyncio.create_task(client.run())
        await begun.wait()
        assert revoke_key(tmp_path / "keys.json", key.split("_")[1]).name == "rita"
        # It ends by itself.
        await reading
        assert client.pieces


async def test_pages_of_the_app_know_the_actor() -> None:
    async def page(scope: dict[str, object], receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": str(scope[ACTOR]).encode()})  # type: ignore[operator]

    app = guarded_bank(pages=lambda _: page)
    async with client_of(app) as (client, _):
        assert (await client.get("/", headers=credentials("ann"))).text == "ann"
        assert (await client.get("/", headers=credentials("eve") | {"x-caller": "eve"})).text == "None"
        assert (await client.get("/")).text == "None"


async def test_a_function_that_fails_lets_nobody_in() -> None:
    def fails(headers: object) -> Actor:
        raise LookupError("secret-of-the-house")

    def returns(headers: object) -> object:
        return "ann"

    for function in (fails, returns):
        async with client_of(guarded_bank(authenticate=[function])) as (client, _):
            response = await client.get("/queries/greeting")
            assert response.status_code == 500
            assert "authenticate function" in response.json()["detail"] and "secret" not in response.text
    for wrong, cure in (
        (["ann"], "takes authenticators and functions"),
        ([ApiKeys], "takes authenticators and functions"),
        (ApiKeys("keys.json"), "takes a list"),
        ([lambda: None], "takes one argument, the headers"),
    ):
        with pytest.raises(WiringError, match=cure):
            guarded_bank(authenticate=wrong)
    with pytest.raises(WiringError, match="a login, but no access rules"):
        guarded_bank(access=None)


async def test_the_description_says_how_to_log_in_and_which_roles_an_operation_needs() -> None:
    async with client_of(guarded_bank()) as (client, _):
        document = (await client.get("/openapi.json")).json()
        assert document["components"]["securitySchemes"]["custom"]["type"] == "http"
        operation = document["paths"]["/commands/deposit"]["post"]
        assert (operation["security"], operation["x-roles"]) == ([{"custom": []}], ["clerk", "customer"])
        assert "401" in operation["responses"]
        assert document["paths"]["/queries/greeting"]["get"]["security"] == []
        assert document["paths"]["/health/live"]["get"]["security"] == []
        assert document["paths"]["/projections/{name}/drop"]["post"]["x-roles"] == ["operator"]
        assert document["paths"]["/commands/withdraw"]["post"]["x-roles"] == []

"""What follows the log is told over HTTP, and operators do to it what has to be done: each act is on record."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import msgspec
import pytest

from tests.http.bank_server import SHORT
from tests.http.test_commands import DEPOSIT, problem
from tests.http.test_security import REFUSED, filled
from tests.sample_domains import bank
from tests.sample_domains.bank import Balance, BalanceOf, Deposit
from tests.sample_domains.counter_app_helpers import until
from twofold import App, InvalidMessage, Module, Policy, Projection, WiringError
from twofold.http import asgi
from twofold.http.projection_routes import VERBS

POISON = {"account_id": "poison", "cents": 5}
BODIES: dict[str, dict[str, Any]] = {
    "retry": {"key": "poison"},
    "skip": {"key": "poison"},
    "repair": {"key": "poison"},
    "split": {"partition": "0-4096"},
    "merge": {"partition": "0-2048"},
}


async def follower(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    answer = await http.get(f"/projections/{name}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()["follower"]
    return told


async def parked(http: httpx.AsyncClient, name: str = "balances") -> list[str]:
    return [each["key"] for each in (await follower(http, name))["parked"]]


async def deposit(http: httpx.AsyncClient, account: str, cents: int = 1) -> httpx.Response:
    answer = await http.post("/commands/deposit", json={"account_id": account, "cents": cents})
    assert answer.status_code == 200, answer.text
    return answer


async def do(http: httpx.AsyncClient, name: str, verb: str, body: object, status: int = 200) -> dict[str, Any]:
    answer = await http.post(f"/projections/{name}/{verb}", json=body)
    if status != 200:
        return problem(answer, status)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def actions(http: httpx.AsyncClient, name: str, **options: int) -> list[tuple[str, str, bool]]:
    told = (await http.get(f"/projections/{name}/actions", params=options)).json()["actions"]
    return [(each["what"], each["key"], each["done"]) for each in told]


async def balance(app: App, account: str) -> int | None:
    row: Balance | None = (await app.ask(BalanceOf(account))).value
    return None if row is None else row.cents


# ------------------------------------------------------------------------------------------------------------- looking


async def test_everything_that_follows_the_log_is_told_with_its_partitions(inside: httpx.AsyncClient) -> None:
    await deposit(inside, "ann")
    await until(lambda: caught_up(inside), "caught up")
    told = (await inside.get("/projections")).json()
    assert (told["head"], told["builds"], told["problems"]) == (1, [], [])
    by_name = {each["name"]: each for each in told["followers"]}
    assert {name: each["kind"] for name, each in by_name.items()} == {"advisor": "policy", "balances": "projection"}
    (whole,) = by_name["balances"]["shares"]
    assert (whole["partition"], whole["position"], whole["lag"], whole["state"]) == ("0-4096", 1, 0, "live")
    assert whole["owner"] is not None
    assert await follower(inside, "balances") == by_name["balances"]


async def caught_up(http: httpx.AsyncClient) -> bool:
    told = (await http.get("/projections")).json()
    return all(each["position"] == told["head"] for each in told["followers"])


@pytest.mark.parametrize(
    "path", ["/projections/nope", "/projections/nope/actions", "/projections/", "/projections/b%61lances"]
)
async def test_what_is_not_there_is_not_found(inside: httpx.AsyncClient, path: str) -> None:
    problem(await inside.get(path), 404)


@pytest.mark.parametrize("verb", VERBS)
async def test_nothing_is_done_to_what_is_not_there(inside: httpx.AsyncClient, verb: str) -> None:
    await do(inside, "nope", verb, BODIES.get(verb, {}), 404)


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"retry", "skip"}))
async def test_what_only_a_projection_has_cannot_be_done_to_a_policy(inside: httpx.AsyncClient, verb: str) -> None:
    told = await do(inside, "advisor", verb, BODIES.get(verb, {}), 404)
    assert "There are: balances." in told["detail"]


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


# -------------------------------------------------------------------------------------------------------------- parked


async def test_a_parked_key_is_retried_in_vain_until_the_fold_is_mended_and_then_up_to_date(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cents in (5, 6, 7):
        await deposit(inside, "poison", cents)
    await deposit(inside, "ann", 8)
    await until(lambda: caught_up(inside), "caught up")
    (aside,) = (await follower(inside, "balances"))["parked"]
    assert (aside["key"], aside["position"], aside["waiting"]) == ("poison", 1, 2)
    assert "cannot be folded" in aside["error"]
    still = await do(inside, "balances", "retry", {"key": "poison"})
    assert still["outcome"].startswith("It is parked at position 1: ValueError")
    monkeypatch.setattr(bank, "POISONED", set())
    done = await do(inside, "balances", "retry", {"key": "poison"})
    assert (done["what"], done["name"], done["done"], done["outcome"]) == (
        "retry",
        "balances",
        True,
        "It is up to date.",
    )
    assert await parked(inside) == []
    assert await balance(app, "poison") == 18
    assert await actions(inside, "balances") == [("retry", "poison", True), ("retry", "poison", True)]


async def test_the_event_a_key_is_parked_at_is_skipped_and_what_waited_behind_it_follows(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deposit(inside, "poison", 5)
    await until(lambda: parked(inside), "parked")
    await deposit(inside, "poison", 6)
    await until(lambda: caught_up(inside), "caught up")
    done = await do(inside, "balances", "skip", {"key": "poison"})
    assert (done["outcome"], done["position"]) == ("The event at 1 is passed over.", 1)
    await until(lambda: parked_at(inside, 2), "on to the next")
    monkeypatch.setattr(bank, "POISONED", set())
    told = await do(inside, "balances", "skip", {"key": "poison"}, 400)
    assert told["detail"].startswith("Nothing was passed over, for the event at 2 can be folded by now.")
    await until(lambda: nothing_parked(inside), "freed")
    assert await balance(app, "poison") == 6
    assert await actions(inside, "balances") == [("skip", "poison", True), ("skip", "poison", False)]


async def parked_at(http: httpx.AsyncClient, position: int) -> bool:
    return [each["position"] for each in (await follower(http, "balances"))["parked"]] == [position]


async def nothing_parked(http: httpx.AsyncClient) -> bool:
    return not await parked(http)


async def test_what_a_policy_could_not_do_is_retried_or_skipped(
    inside: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        await deposit(inside, "poison")
    await until(lambda: both_parked(inside), "parked")
    again = await do(inside, "advisor", "retry", {"key": "parked:1"})
    assert again["outcome"].startswith("It still fails: ConnectionError")
    await do(inside, "advisor", "skip", {"key": "parked:1"})
    monkeypatch.setattr(bank, "POISONED", set())
    assert (await do(inside, "advisor", "retry", {"key": "parked:2"}))["outcome"] == "It is done."
    assert await parked(inside, "advisor") == []


async def both_parked(http: httpx.AsyncClient) -> bool:
    return await parked(http, "advisor") == ["parked:1", "parked:2"]


@pytest.mark.parametrize("name", ["balances", "advisor"])
@pytest.mark.parametrize("verb", ["retry", "skip"])
async def test_a_key_that_is_not_parked_is_refused_and_the_refusal_is_on_record(
    inside: httpx.AsyncClient, name: str, verb: str
) -> None:
    told = await do(inside, name, verb, {"key": "ann"}, 400)
    assert told["field"] == "key"
    assert "parked" in told["detail"]
    assert await actions(inside, name) == [(verb, "ann", False)]


async def test_a_row_is_repaired_as_far_as_its_key_can_be_folded(
    inside: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deposit(inside, "ann")
    await deposit(inside, "ben")
    await deposit(inside, "poison")
    await until(lambda: caught_up(inside), "caught up")
    assert (await do(inside, "balances", "repair", {"key": "ann"}))["outcome"] == "The row was right already."
    told = await do(inside, "balances", "repair", {"key": "poison"})
    assert told["outcome"].startswith("The row was right already. Its key is parked at position 3: ")
    monkeypatch.setattr(bank, "POISONED", {"ben", "poison"})
    told = await do(inside, "balances", "repair", {"key": "ben"}, 400)
    assert "its event at 2 fails: ValueError" in told["detail"]


# -------------------------------------------------------------------------------------------------------------- builds


async def test_a_generation_is_built_switched_to_gone_back_from_and_dropped(inside: httpx.AsyncClient) -> None:
    await deposit(inside, "ann", 3)
    await until(lambda: caught_up(inside), "caught up")
    assert (await do(inside, "balances", "switch", {}, 400))["field"] == "name"
    assert (await do(inside, "balances", "rebuild", {}))["generations"] == {"balances": 2}
    assert (await do(inside, "balances", "rebuild", {}))["generations"] == {"balances": 2}, "it goes on with that one"
    await until(lambda: built(inside), "built")
    other = await do(inside, "balances", "switch", {"generation": 3}, 409)
    assert "but 2" in other["detail"]
    assert await do(inside, "balances", "switch", {"generation": 2, "force": True}) == {
        "name": "balances",
        "generation": 2,
    }
    assert (await do(inside, "balances", "rebuild", {}, 400))["detail"].endswith("Drop it first.")
    await until(lambda: serves(inside, 2), "the new one serves")
    assert (await do(inside, "balances", "switch-back", {}))["generation"] == 1
    await until(lambda: serves(inside, 1), "the old one serves again")
    (kept,) = (await inside.get("/projections/balances")).json()["builds"]
    assert (kept["generation"], kept["state"]) == (2, "standby")
    assert (await do(inside, "balances", "drop", {}))["generations"] == [2]
    assert (await inside.get("/projections/balances")).json()["builds"] == []
    done = [what for what, _, _ in await actions(inside, "balances")]
    assert done == ["rebuild", "switch", "back", "drop"]
    assert await actions(inside, "balances", limit=1) == [("drop", "", True)]


async def built(http: httpx.AsyncClient) -> bool:
    told = (await http.get("/projections/balances")).json()
    return any(each["state"] == "building" and each["position"] == told["head"] for each in told["builds"])


async def serves(http: httpx.AsyncClient, generation: int) -> bool:
    return bool((await follower(http, "balances"))["generation"] == generation)


async def test_several_are_built_in_one_pass_and_unknown_ones_refused_before_any_begins(
    inside: httpx.AsyncClient,
) -> None:
    told = problem(await inside.post("/projections/rebuild", json={"names": ["balances", "nope"]}), 404)
    assert told["field"] == "names"
    assert await actions(inside, "balances") == []
    problem(await inside.post("/projections/rebuild", json={"names": []}), 400)
    begun = await inside.post("/projections/rebuild", json={"names": ["balances", "balances"]})
    assert begun.json() == {"generations": {"balances": 2}}


async def test_none_of_several_is_begun_where_an_earlier_generation_is_kept_of_one() -> None:
    class Sum(msgspec.Struct, frozen=True):
        cents: int = 0

    def add(row: Sum | None, event: bank.Deposited) -> Sum:
        return Sum((row.cents if row else 0) + event.cents)

    projections = [
        Projection("balances", bank.balance_of, key=bank.AccountId),
        Projection("sums", add, key=bank.AccountId),
    ]
    module = Module("m", events=bank.EVENTS, projections=projections)
    async with App(module, write_store="memory:", read_store="memory:") as app:
        transport = httpx.ASGITransport(asgi(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
            await do(http, "balances", "rebuild", {})
            await until(lambda: built(http), "built")
            await do(http, "balances", "switch", {"generation": 2})
            for names in (["sums", "balances"], ["balances", "sums"]):
                told = problem(await http.post("/projections/rebuild", json={"names": names}), 400)
                assert told["detail"].endswith("Drop it first.")
                with pytest.raises(InvalidMessage, match="'balances' that served before is still kept"):
                    await app.projections.rebuild(names)
            assert await actions(http, "sums") == []
            assert (await http.get("/projections/sums")).json()["builds"] == []


# ---------------------------------------------------------------------------------------------------------- partitions


async def test_a_partition_is_split_and_merged_and_one_that_is_not_there_is_refused(inside: httpx.AsyncClient) -> None:
    assert (await do(inside, "balances", "split", {"partition": "0-4096"}))["outcome"] == (
        "Parted into 0-2048 and 2048-4096."
    )
    await until(lambda: partitions(inside, 2), "split")
    told = await do(inside, "balances", "split", {"partition": "0-4096"}, 400)
    assert told["field"] == "partition"
    assert told["detail"].endswith("It has: 0-2048, 2048-4096.")
    last = await do(inside, "balances", "merge", {"partition": "2048-4096"}, 400)
    assert last["detail"] == "There is no partition behind this one."
    await do(inside, "balances", "merge", {"partition": "0-2048"})
    await until(lambda: partitions(inside, 1), "merged")


async def partitions(http: httpx.AsyncClient, count: int) -> bool:
    return len((await follower(http, "balances"))["shares"]) == count


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("retry", {}, "key"),
        ("retry", {"key": ""}, "key"),
        ("retry", {"key": "k" * 1025}, "key"),
        ("skip", {"key": 1}, "key"),
        ("skip", {"key": "a", "kee": "b"}, "kee"),
        ("repair", {"key": None}, "key"),
        ("switch", {"force": "yes"}, "force"),
        ("switch", {"generation": "2"}, "generation"),
        ("switch", {"generation": 0}, "generation"),
        ("rebuild", {"name": "x"}, "name"),
        ("split", {}, "partition"),
        ("split", {"partition": "half"}, "partition"),
        ("split", {"partition": "9-3"}, "partition"),
        ("merge", {"partition": "0-9999"}, "partition"),
    ],
)
async def test_what_does_not_fit_is_refused_naming_the_field(
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
def test_what_a_form_of_another_site_could_send_is_not_taken(http: httpx.Client, verb: str) -> None:
    answer = http.post(f"/projections/balances/{verb}", content=b"{}", headers={"Content-Type": "text/plain"})
    problem(answer, 415)
    answer = http.get(f"/projections/balances/{verb}")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")


async def test_what_nobody_comes_to_in_time_is_told_so_and_not_done_later(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = app._running
    assert running is not None
    monkeypatch.setattr(running._requests, "look", lambda board: None)
    told = await do(inside, "balances", "retry", {"key": "ann"}, 503)
    assert f"within {SHORT.request_seconds / 2:g} s" in told["detail"]
    assert (await running.cluster.read()).requests == {}


# -------------------------------------------------------------------------------------------- waiting with the command


async def test_a_receipt_waits_for_the_named_followers(inside: httpx.AsyncClient, app: App) -> None:
    for n in range(20):
        await inside.post("/commands/deposit?wait_for=balances,advisor", json=DEPOSIT)
        assert await balance(app, "ann") == 100 * (n + 1)
    for spelt in ("wait_for=balances&wait_for=advisor", "wait_for=balances%2Cadvisor"):
        receipt = (await inside.post(f"/commands/deposit?{spelt}", json=DEPOSIT)).json()
        assert receipt["late"] == []
        at = {each.name: each.position for each in (await app.status()).followers}
        assert min(at.values()) >= receipt["position"]


@pytest.mark.parametrize(
    ("query", "field"),
    [("wait_for=nope", "wait_for"), ("wait_for=balances,", "wait_for"), ("wait_for=", "wait_for"), ("wait=x", "wait")],
)
async def test_an_unknown_name_is_refused_before_the_command_is_handled(
    inside: httpx.AsyncClient, app: App, query: str, field: str
) -> None:
    assert problem(await inside.post(f"/commands/deposit?{query}", json=DEPOSIT), 400)["field"] == field
    assert (await app.log()).head == 0


async def test_a_command_is_written_although_those_it_waited_for_are_late(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: caught_up(inside), "caught up")
    running = app._running
    assert running is not None
    slow = next(worker for worker in running.workers if worker.follower.name == "balances")
    held = slow._held
    monkeypatch.setattr(slow, "_held", lambda: False)
    receipt = (await inside.post("/commands/deposit?wait_for=advisor,balances", json=DEPOSIT)).json()
    assert receipt["late"] == ["balances"]
    assert (await app.log()).head == receipt["position"] == 1
    monkeypatch.setattr(slow, "_held", held)
    again = (await inside.post("/commands/deposit?wait_for=balances", json=DEPOSIT)).json()
    assert again["late"] == []


async def test_many_who_wait_share_their_looks(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    running = app._running
    assert running is not None
    looks = 0
    checkpoints = running.read_store.checkpoints

    async def counted() -> Any:
        nonlocal looks
        looks += 1
        return await checkpoints()

    monkeypatch.setattr(running.read_store, "checkpoints", counted)
    receipts = await asyncio.gather(*(app.send(Deposit(f"a{n}", 1), wait_for=["balances"]) for n in range(200)))
    assert {tuple(each.late) for each in receipts} == {()}
    assert looks < 100

"""Operators retry, skip, repair, rebuild, switch, split and merge over HTTP, and every action is recorded."""

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from tests.http.bank_server import SHORT
from tests.http.http_helpers import actions, balance, caught_up, deposit, do, follower, parked, problem
from tests.sample_domains import bank
from tests.sample_domains.counter_app_helpers import until
from twofold import App, InvalidMessage, Module, Projection
from twofold.http import asgi


async def test_a_parked_key_is_retried_until_its_fold_works(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cents in (5, 6, 7):
        await deposit(inside, "poison", cents)
    await deposit(inside, "ann", 8)
    await until(lambda: caught_up(inside), "caught up")
    (entry,) = (await follower(inside, "balances"))["parked"]
    assert (entry["key"], entry["position"], entry["waiting"]) == ("poison", 1, 2)
    assert "cannot be folded" in entry["error"]
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


async def test_the_event_at_which_a_key_is_parked_is_skipped_and_the_next_ones_are_folded(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deposit(inside, "poison", 5)
    await until(lambda: parked(inside), "parked")
    await deposit(inside, "poison", 6)
    await until(lambda: caught_up(inside), "caught up")
    other = await do(inside, "balances", "skip", {"key": "poison", "position": 7}, 400)
    assert other["detail"].startswith("'poison' is parked at 1 now, not at 7.")
    done = await do(inside, "balances", "skip", {"key": "poison", "position": 1})
    assert (done["outcome"], done["position"]) == ("The event at 1 is skipped.", 1)
    await until(lambda: parked_at(inside, 2), "on to the next")
    monkeypatch.setattr(bank, "POISONED", set())
    answer = await do(inside, "balances", "skip", {"key": "poison"}, 400)
    assert answer["detail"].startswith("Nothing was skipped, because the event at 2 can be folded now.")
    await until(lambda: nothing_parked(inside), "freed")
    assert await balance(app, "poison") == 6
    assert await actions(inside, "balances") == [
        ("skip", "poison", False),
        ("skip", "poison", True),
        ("skip", "poison", False),
    ]


async def parked_at(http: httpx.AsyncClient, position: int) -> bool:
    return [entry["position"] for entry in (await follower(http, "balances"))["parked"]] == [position]


async def nothing_parked(http: httpx.AsyncClient) -> bool:
    return not await parked(http)


async def test_a_parked_event_of_a_policy_is_retried_or_skipped(
    inside: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        await deposit(inside, "poison")
    await until(lambda: advisor_parked(inside, 1, 1), "parked")
    again = await do(inside, "advisor", "retry", {"key": "account:poison"})
    assert again["outcome"].startswith("It still fails: LookupError")
    await do(inside, "advisor", "skip", {"key": "account:poison"})
    await until(lambda: advisor_parked(inside, 2, 0), "on to the next")
    monkeypatch.setattr(bank, "POISONED", set())
    await do(inside, "advisor", "retry", {"key": "account:poison"})
    await until(lambda: advisor_goes_on(inside), "nothing is parked")


async def advisor_goes_on(http: httpx.AsyncClient) -> bool:
    return not await parked(http, "advisor")


async def advisor_parked(http: httpx.AsyncClient, position: int, waiting: int) -> bool:
    entries = (await follower(http, "advisor"))["parked"]
    return [(entry["key"], entry["position"], entry["waiting"]) for entry in entries] == [
        ("account:poison", position, waiting)
    ]


@pytest.mark.parametrize("name", ["balances", "advisor"])
@pytest.mark.parametrize("verb", ["retry", "skip"])
async def test_a_key_that_is_not_parked_is_refused_and_the_refusal_is_recorded(
    inside: httpx.AsyncClient, name: str, verb: str
) -> None:
    answer = await do(inside, name, verb, {"key": "ann"}, 400)
    assert answer["field"] == "key"
    assert "parked" in answer["detail"]
    assert await actions(inside, name) == [(verb, "ann", False)]


async def test_a_row_is_repaired_as_far_as_its_key_can_be_folded(
    inside: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deposit(inside, "ann")
    await deposit(inside, "ben")
    await deposit(inside, "poison")
    await until(lambda: caught_up(inside), "caught up")
    assert (await do(inside, "balances", "repair", {"key": "ann"}))["outcome"] == "The row was right already."
    answer = await do(inside, "balances", "repair", {"key": "poison"})
    assert answer["outcome"].startswith("The row was right already. Its key is parked at position 3: ")
    monkeypatch.setattr(bank, "POISONED", {"ben", "poison"})
    answer = await do(inside, "balances", "repair", {"key": "ben"}, 400)
    assert "its event at 2 fails with ValueError" in answer["detail"]


@pytest.fixture
async def patient(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the bank with time for requests: a drop waits until other processes have looked."""
    transport = httpx.ASGITransport(asgi(app, limits=msgspec.structs.replace(SHORT, request_seconds=30.0)))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


async def test_a_generation_is_built_switched_to_switched_back_from_and_dropped(patient: httpx.AsyncClient) -> None:
    inside = patient
    await deposit(inside, "ann", 3)
    await until(lambda: caught_up(inside), "caught up")
    assert (await do(inside, "balances", "switch", {}, 400))["field"] == "name"
    assert (await do(inside, "balances", "rebuild", {}))["generations"] == {"balances": 2}
    assert (await do(inside, "balances", "rebuild", {}))["generations"] == {"balances": 2}, "it continues that one"
    await until(lambda: built(inside), "built")
    other = await do(inside, "balances", "switch", {"generation": 3}, 409)
    assert "Generation 2 of 'balances' is under way, not generation 3" in other["detail"]
    assert (other["title"], other["type"]) == ("Another generation is being built", "/docs#problem-generation-changed")
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
    assert done == ["rebuild", "switch", "switch-back", "drop"]
    assert await actions(inside, "balances", limit=1) == [("drop", "", True)]


async def built(http: httpx.AsyncClient) -> bool:
    body = (await http.get("/projections/balances")).json()
    return any(build["state"] == "building" and build["position"] == body["head"] for build in body["builds"])


async def serves(http: httpx.AsyncClient, generation: int) -> bool:
    return bool((await follower(http, "balances"))["generation"] == generation)


async def test_several_are_rebuilt_in_one_pass_and_unknown_names_are_refused_before_any_starts(
    inside: httpx.AsyncClient,
) -> None:
    answer = problem(await inside.post("/projections/rebuild", json={"names": ["balances", "nope"]}), 404)
    assert answer["field"] == "names"
    assert await actions(inside, "balances") == []
    problem(await inside.post("/projections/rebuild", json={"names": []}), 400)
    begun = await inside.post("/projections/rebuild", json={"names": ["balances", "balances"]})
    assert begun.json() == {"generations": {"balances": 2}}


async def test_none_of_several_is_rebuilt_while_one_has_a_generation_on_standby() -> None:
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
                answer = problem(await http.post("/projections/rebuild", json={"names": names}), 400)
                assert answer["detail"].endswith("Drop it first.")
                with pytest.raises(InvalidMessage, match="An earlier generation of 'balances' is still on standby"):
                    await app.projections.rebuild(names)
            assert await actions(http, "sums") == []
            assert (await http.get("/projections/sums")).json()["builds"] == []


async def test_a_partition_is_split_and_merged_and_an_unknown_one_is_refused(inside: httpx.AsyncClient) -> None:
    assert (await do(inside, "balances", "split", {"partition": "0-4096"}))["outcome"] == (
        "Split into 0-2048 and 2048-4096."
    )
    await until(lambda: partitions(inside, 2), "split")
    answer = await do(inside, "balances", "split", {"partition": "0-4096"}, 400)
    assert answer["field"] == "partition"
    assert answer["detail"].endswith("It has: 0-2048, 2048-4096.")
    last = await do(inside, "balances", "merge", {"partition": "2048-4096"}, 400)
    assert last["detail"] == "There is no partition after this one."
    await do(inside, "balances", "merge", {"partition": "0-2048"})
    await until(lambda: partitions(inside, 1), "merged")


async def partitions(http: httpx.AsyncClient, count: int) -> bool:
    return len((await follower(http, "balances"))["partitions"]) == count


async def test_a_request_that_no_node_takes_in_time_is_refused_and_not_done_later(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = app._running
    assert running is not None
    monkeypatch.setattr(running.synchronization.requests, "start_new", lambda *_: None)
    answer = await do(inside, "balances", "retry", {"key": "ann"}, 503)
    assert f"within {SHORT.request_seconds / 2:g} s" in answer["detail"]
    assert (await running.synchronization.cluster.read()).requests == {}


@pytest.mark.parametrize(("name", "side"), [("balances", "query"), ("advisor", "command")])
async def test_a_projection_or_policy_is_paused_and_resumed(inside: httpx.AsyncClient, name: str, side: str) -> None:
    await deposit(inside, "ann")
    await until(lambda: caught_up(inside), "caught up")
    record = await do(inside, name, "pause", {"reason": "The disk is being moved."})
    assert (record["what"], record["done"], record["outcome"]) == (
        "pause",
        True,
        "It is paused: The disk is being moved.",
    )
    await deposit(inside, "ann")
    paused = await follower(inside, name)
    assert (paused["state"], paused["position"], paused["lag"]) == ("paused", 1, 1)
    assert (paused["pause"]["reason"], paused["pause"]["position"]) == ("The disk is being moved.", 0)
    report = (await inside.get("/health/ready")).raise_for_status().json()
    assert [(each["code"], each["side"], each["subject"]) for each in report["problems"]] == [("paused", side, name)]
    metrics = (await inside.get("/metrics")).text
    assert metrics.count("twofold_follower_paused{") == 2
    assert f'name="{name}"}} 1.0' in next(
        line for line in metrics.splitlines() if line.startswith("twofold_follower_paused{") and f'"{name}"' in line
    )
    assert (await do(inside, name, "resume", {"skip": 1}, 400))["field"] == "skip"
    assert (await do(inside, name, "resume", {}))["outcome"] == "It is resumed."
    await until(lambda: caught_up(inside), "caught up")
    assert (await follower(inside, name))["pause"] is None
    assert await actions(inside, name) == [("pause", "", True), ("resume", "", True)]


async def test_a_query_that_needs_what_a_paused_projection_has_not_is_unavailable_at_once(
    inside: httpx.AsyncClient,
) -> None:
    await do(inside, "balances", "pause", {})
    token = (await deposit(inside, "ann")).json()["token"]
    query = {"account_id": "ann", "position": token}
    details = problem(await inside.get("/queries/balance-of", params=query), 503)
    assert details["lag"] == 1
    assert "It is paused by an operator." in details["detail"]
    assert (await inside.get("/queries/balance-of", params={"account_id": "ann"})).json()["position"] == 0

"""A receipt waits for the projections and policies that the request names."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.http.http_helpers import DEPOSIT, balance, caught_up, problem
from tests.sample_domains.bank import Deposit
from tests.sample_domains.counter_app_helpers import until
from twofold import App


async def test_a_receipt_waits_for_the_named_followers(inside: httpx.AsyncClient, app: App) -> None:
    for n in range(20):
        await inside.post("/commands/deposit?wait_for=balances,advisor", json=DEPOSIT)
        assert await balance(app, "ann") == 100 * (n + 1)
    for spelt in ("wait_for=balances&wait_for=advisor", "wait_for=balances%2Cadvisor"):
        receipt = (await inside.post(f"/commands/deposit?{spelt}", json=DEPOSIT)).json()
        assert receipt["late"] == []
        at = {report.name: report.position for report in (await app.status()).followers}
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


async def test_a_command_is_written_even_if_those_it_waits_for_are_late(
    inside: httpx.AsyncClient, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: caught_up(inside), "caught up")
    running = app._running
    assert running is not None
    slow = next(worker for worker in running.synchronization.workers if worker.follower.name == "balances")
    held = slow._held
    monkeypatch.setattr(slow, "_held", lambda: False)
    receipt = (await inside.post("/commands/deposit?wait_for=advisor,balances", json=DEPOSIT)).json()
    assert receipt["late"] == ["balances"]
    assert (await app.log()).head == receipt["position"] == 1
    monkeypatch.setattr(slow, "_held", held)
    again = (await inside.post("/commands/deposit?wait_for=balances", json=DEPOSIT)).json()
    assert again["late"] == []


async def test_many_waiting_requests_share_their_reads(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    running = app._running
    assert running is not None
    looks = 0
    checkpoints = running.read_store.checkpoints

    async def counted() -> Any:
        nonlocal looks
        looks += 1
        return await checkpoints()

    monkeypatch.setattr(running.read_store, "checkpoints", counted)
    receipts = await asyncio.gather(
        *(app.send(Deposit(f"a{n}", 1), wait_for=["balances"], wait_seconds=60.0) for n in range(200))
    )
    assert {tuple(receipt.late) for receipt in receipts} == {()}
    assert looks < 100

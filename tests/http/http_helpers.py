"""Helpers for tests over HTTP: send commands and operators' requests, and read what they answer."""

from typing import Any

import httpx

from tests.sample_domains.bank import Balance, BalanceOf
from twofold import App

DEPOSIT = {"account_id": "ann", "cents": 100}
POISON = {"account_id": "poison", "cents": 5}
BODIES: dict[str, dict[str, Any]] = {
    "retry": {"key": "poison"},
    "skip": {"key": "poison"},
    "repair": {"key": "poison"},
    "split": {"partition": "0-4096"},
    "merge": {"partition": "0-2048"},
}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    details: dict[str, Any] = answer.json()
    assert details["status"] == status
    assert details["type"].startswith("/docs#problem-")
    return details


async def follower(http: httpx.AsyncClient, name: str) -> dict[str, Any]:
    answer = await http.get(f"/projections/{name}")
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()["follower"]
    return report


async def parked(http: httpx.AsyncClient, name: str = "balances") -> list[str]:
    return [entry["key"] for entry in (await follower(http, name))["parked"]]


async def deposit(http: httpx.AsyncClient, account: str, cents: int = 1) -> httpx.Response:
    answer = await http.post("/commands/deposit", json={"account_id": account, "cents": cents})
    assert answer.status_code == 200, answer.text
    return answer


async def do(http: httpx.AsyncClient, name: str, verb: str, body: object, status: int = 200) -> dict[str, Any]:
    answer = await http.post(f"/projections/{name}/{verb}", json=body)
    if status != 200:
        return problem(answer, status)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def actions(http: httpx.AsyncClient, name: str, **options: int) -> list[tuple[str, str, bool]]:
    records = (await http.get(f"/projections/{name}/actions", params=options)).json()["actions"]
    return [(record["what"], record["key"], record["done"]) for record in records]


async def balance(app: App, account: str) -> int | None:
    row: Balance | None = (await app.ask(BalanceOf(account))).value
    return None if row is None else row.cents


async def caught_up(http: httpx.AsyncClient) -> bool:
    body = (await http.get("/projections")).json()
    return all(report["position"] == body["head"] for report in body["followers"])

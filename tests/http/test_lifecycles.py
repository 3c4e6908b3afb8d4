"""Queries over live and inline views are queries like all others: on the wire, in problems, in the document."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.query_service.bank_app_helpers import bank_app
from tests.sample_domains.bank import STATEMENT_FAILS_ON, TILL_FAILS_ON, bank, till
from twofold import App, Projection
from twofold.http import asgi


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """Speaks to the bank with one read model of each lifecycle."""
    async with bank_app() as app:
        transport = httpx.ASGITransport(asgi(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            yield client


async def deposit(http: httpx.AsyncClient, account: str, cents: int) -> str:
    answer = await http.post("/commands/deposit", json={"account_id": account, "cents": cents})
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["token"]
    return token


async def test_both_answer_with_position_and_token(http: httpx.AsyncClient) -> None:
    token = await deposit(http, "a", 100)
    for name, value in (
        ("chained-balance-of", {"account_id": "a", "cents": 100, "events": 1, "chain": 100}),
        ("statement-of", {"account_id": "a", "cents": [100], "positions": [1]}),
    ):
        answer = await http.get(f"/queries/{name}", params={"account_id": "a", "position": token})
        assert answer.json() == {"answer": value, "position": 1, "token": token, "parked": [], "parked_count": 0}
        assert answer.headers["twofold-position"] == token
        missing = await http.get(f"/queries/{name}", params={"account_id": "b"})
        assert (missing.status_code, missing.json()["answer"]) == (200, None)


@pytest.mark.parametrize("name", ["statements", "richest"])
async def test_to_search_one_is_undeclared_access(http: httpx.AsyncClient, name: str) -> None:
    answer = await http.get(f"/queries/{name}")
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (400, "/docs#problem-undeclared-access")
    assert "make it lifecycle='async'" in problem["detail"]


async def test_a_live_fold_that_fails_says_where(http: httpx.AsyncClient) -> None:
    await deposit(http, "a", STATEMENT_FAILS_ON)
    answer = await http.get("/queries/statement-of", params={"account_id": "a"})
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (500, "/docs#problem-function-failed")
    assert "The fold of 'statements' fails at position 1 ('deposited') with " in problem["detail"]


async def test_a_command_that_an_inline_fold_fails_on_is_a_bug_of_the_app() -> None:
    hot = Projection("till", till, key=lambda event: "all", lifecycle="inline")
    async with App(bank(hot), write_store="memory:", read_store="memory:") as app:
        transport = httpx.ASGITransport(asgi(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
            answer = await http.post("/commands/deposit", json={"account_id": "a", "cents": TILL_FAILS_ON})
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (500, "/docs#problem-function-failed")
    for said in ("'till'", "ValueError", "nothing is written"):
        assert said in problem["detail"]


async def test_the_openapi_document_tells_of_them_like_of_all_others(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    for name in ("chained-balance-of", "statement-of", "turnover-of", "overview-of"):
        assert set(document["paths"][f"/queries/{name}"]) == {"get"}

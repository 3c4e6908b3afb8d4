"""A query is typed by its query string, sees what a receipt's position promises, and is refused in words otherwise."""

import httpx
import msgspec
import pytest

from tests.http.http_helpers import problem
from tests.sample_domains.bank import Balance, followed_bank
from twofold import App, Module, View, WiringError
from twofold.http import asgi


def deposit(http: httpx.Client, account: str, cents: int = 100) -> str:
    answer = http.post("/commands/deposit", json={"account_id": account, "cents": cents})
    token: str = answer.json()["token"]
    return token


@pytest.mark.parametrize("where", ["parameter", "header"])
def test_a_query_with_the_position_of_a_receipt_sees_what_it_wrote(http: httpx.Client, where: str) -> None:
    token = deposit(http, f"fresh-{where}", 7)
    params = {"account_id": f"fresh-{where}"}
    if where == "parameter":
        answer = http.get("/queries/balance-of", params=params | {"position": token})
    else:
        answer = http.get("/queries/balance-of", params=params, headers={"Twofold-Position": token})
    body = answer.json()
    assert body["answer"] == {"account_id": f"fresh-{where}", "cents": 7}
    assert answer.headers["twofold-position"] == body["token"]
    assert body["position"] >= int(token.rpartition(".")[2])


def test_a_name_that_is_repeated_makes_a_list(http: httpx.Client) -> None:
    deposit(http, "list-1")
    token = deposit(http, "list-2")
    query = {"account_ids": ["list-1", "list-2", "nobody"], "order": "down", "since": "2020-01-31", "position": token}
    body = http.get("/queries/balances", params=query).json()
    assert "answer" in body, body
    assert {row["account_id"] for row in body["answer"]} == {"list-1", "list-2"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "account_id"),
        ("account_id=a&acount=b", "acount"),
        ("account_id=a&account_id=b", "account_id"),
        ("account_id=%zz", None),
        ("account_id=%", None),
        ("account_id=%ff", None),
        ("account_id=%ed%a0%80", None),
        ("account_id=a%00b", "account_id"),
        ("account_id=a&position=", "position"),
        ("account_id=a&position=nonsense", "position"),
        ("account_id=a&position=main.1.-1", "position"),
        ("account_id=a&position=other.1.1", "position"),
        ("account_id=a&position=main.1.999999", "position"),
        ("account_id=" + "a" * 20_000, None),
        ("account_id=a" + "&" * 10 + "x=1" * 300, None),
    ],
)
def test_an_invalid_query_string_is_refused_with_the_parameter_named(
    http: httpx.Client, query: str, field: str | None
) -> None:
    details = problem(http.get(f"/queries/balance-of?{query}"), 400)
    assert field is None or details["field"] == field


@pytest.mark.parametrize(
    "query", ["least=much", "least=NaN", "least=1e999", "least=99999999999999999999", "since=yesterday", "order=x"]
)
def test_text_that_is_not_a_value_of_the_field_is_refused(http: httpx.Client, query: str) -> None:
    details = problem(http.get(f"/queries/balances?{query}"), 400)
    assert details.get("field") in (query.partition("=")[0], None)


def test_a_query_that_fails_is_a_500_that_names_it_without_details_of_the_code(http: httpx.Client) -> None:
    answer = http.get("/queries/broken")
    assert problem(answer, 500)["detail"].startswith("The query function broken failed with ")
    assert "secret" not in answer.text


def test_head_gets_the_headers_of_get_without_the_body(http: httpx.Client) -> None:
    answer = http.head("/queries/balances?least=100000000")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


def test_a_query_is_not_posted(http: httpx.Client) -> None:
    answer = http.post("/queries/balances")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


def test_a_parked_row_is_not_a_fresh_answer_and_lists_name_it(http: httpx.Client) -> None:
    token = deposit(http, "poison")
    answer = http.get("/queries/balance-of", params={"account_id": "poison", "position": token})
    problem(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1
    assert http.get("/queries/balance-of", params={"account_id": "poison"}).json()["parked"] == ["poison"]
    assert http.get("/queries/balances").json()["parked"] == ["poison"]


class Nested(msgspec.Struct, frozen=True):
    where: Balance


class WithPosition(msgspec.Struct, frozen=True):
    position: int


class Unnamed(msgspec.Struct, frozen=True, array_like=True):
    size: int


@pytest.mark.parametrize(
    ("kind", "words"), [(Nested, "Nested.where"), (WithPosition, "Rename the field"), (Unnamed, "array_like")]
)
def test_a_query_that_no_query_string_can_express_fails_at_start(kind: type, words: str) -> None:
    async def ask(query: object, balances: View[Balance]) -> int:
        return 0

    ask.__annotations__["query"] = kind
    with pytest.raises(WiringError, match=words):
        asgi(App(followed_bank(), Module("more", queries=[ask]), write_store="memory:", read_store="memory:"))

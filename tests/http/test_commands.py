"""A command is answered with a receipt, or with a problem that names field and cure."""

import httpx
import pytest

from tests.http.http_helpers import DEPOSIT, problem
from twofold.http import Api


def test_a_command_is_answered_with_a_receipt_in_body_and_header(http: httpx.Client) -> None:
    answer = http.post("/commands/deposit", json=DEPOSIT)
    assert answer.status_code == 200
    receipt = answer.json()
    assert set(receipt) == {"command_id", "position", "token", "events", "repeated", "late", "remembered_seconds"}
    assert answer.headers["twofold-position"] == receipt["token"]
    assert receipt["events"] == [f"{receipt['command_id']}.0"]
    assert "idempotent-replay" not in answer.headers


def test_a_receipt_says_for_how_long_a_repeat_is_recognised(http: httpx.Client) -> None:
    first = http.post("/commands/deposit", json=DEPOSIT, headers={"Idempotency-Key": "remembered-1"})
    assert (first.json()["remembered_seconds"], first.headers["idempotency-key-seconds"]) == (604_800, "604800")
    again = http.post("/commands/deposit", json=DEPOSIT, headers={"Idempotency-Key": "remembered-1"})
    # The time runs from the first receipt, so the repeat cannot promise the same.
    assert again.json()["remembered_seconds"] is None
    assert "idempotency-key-seconds" not in again.headers


@pytest.mark.parametrize("key", ["~", "~3f0c4b9e-6a43-4a53-9d53-1f6c6b0c8f10", "~0000000000000001.1"])
def test_a_key_in_the_space_of_the_runtime_is_refused(http: httpx.Client, key: str) -> None:
    details = problem(http.post("/commands/deposit", json=DEPOSIT, headers={"Idempotency-Key": key}), 400)
    assert details["field"] == "Idempotency-Key"
    assert "may not begin with '~'" in details["detail"]


def test_a_repeat_under_one_key_gets_the_first_receipt_and_says_so(http: httpx.Client) -> None:
    first = http.post("/commands/deposit", json=DEPOSIT, headers={"Idempotency-Key": "repeat-1"})
    again = http.post("/commands/deposit", json=DEPOSIT, headers={"Idempotency-Key": "repeat-1"})
    assert again.headers["idempotent-replay"] == "true"
    assert again.json() == first.json() | {"repeated": True, "remembered_seconds": None}


def test_another_command_under_the_same_key_is_refused(http: httpx.Client) -> None:
    http.post("/commands/deposit", json=DEPOSIT, headers={"Idempotency-Key": "reuse-1"})
    other = http.post("/commands/deposit", json=DEPOSIT | {"cents": 5}, headers={"Idempotency-Key": "reuse-1"})
    assert problem(other, 422)["type"] == "/docs#problem-command-id-reused"


def test_a_rejection_carries_the_code_and_the_reason(http: httpx.Client) -> None:
    details = problem(http.post("/commands/withdraw", json={"account_id": "poor", "cents": 1}), 422)
    assert (details["code"], details["detail"]) == ("not-enough", "There are only 0 cents in it.")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"account_id": "ann"}, "cents"),
        ({"account_id": "ann", "cents": "many"}, "cents"),
        ({"account_id": "ann", "cents": 0}, "cents"),
        ({"account_id": "ann", "cents": 1, "cent": 2}, "cent"),
        (
            {"account_id": "ann", "cents": 1, "notes": [{"text": "a"}, {"text": "b", "langauge": "de"}]},
            "notes[1].langauge",
        ),
        ({"account_id": "ann", "cents": 1, "notes": [{}]}, "notes[0].text"),
        ({"account_id": "", "cents": 1}, "account_id"),
        ({"account_id": "a" * 300, "cents": 1}, "account_id"),
    ],
)
def test_an_invalid_body_is_refused_with_the_field_named(http: httpx.Client, body: object, field: str) -> None:
    details = problem(http.post("/commands/deposit", json=body), 400)
    assert field in details["field"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", ""]
)
def test_a_body_without_a_json_content_type_is_refused(http: httpx.Client, kind: str) -> None:
    problem(http.post("/commands/deposit", content=b"{}", headers={"Content-Type": kind}), 415)


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_json_may_be_announced_in_every_usual_spelling(http: httpx.Client, kind: str) -> None:
    content = b'{"account_id": "ann", "cents": 1}'
    assert http.post("/commands/deposit", content=content, headers={"Content-Type": kind}).status_code == 200


def test_a_compressed_body_is_refused_unread(http: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    problem(http.post("/commands/deposit", content=b"\x1f\x8b", headers=headers), 415)


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "ü", "a\tb"])
def test_an_invalid_idempotency_key_is_refused(http: httpx.Client, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    details = problem(http.post("/commands/deposit", json=DEPOSIT, headers=headers), 400)
    assert details["field"] == "Idempotency-Key"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
def test_a_command_is_posted_and_nothing_else(http: httpx.Client, method: str) -> None:
    answer = http.request(method, "/commands/deposit")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")


def test_options_lists_the_methods(http: httpx.Client) -> None:
    answer = http.options("/commands/deposit")
    assert (answer.status_code, answer.headers["allow"], answer.content) == (204, "POST, OPTIONS", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/commands/nope",
        "/commands/deposit/",
        "/commands//deposit",
        "/commands/dep%6fsit",
        "/commands/Deposit",
        "/commands",
        "/queries/",
    ],
)
def test_a_path_in_any_other_spelling_is_not_found(http: httpx.Client, path: str) -> None:
    problem(http.request("POST" if "commands" in path else "GET", path), 404)


def test_a_decision_that_fails_is_a_500_that_names_it_and_its_error_without_details_of_the_code(
    http: httpx.Client,
) -> None:
    answer = http.post("/commands/break", json={"account_id": "ann"})
    details = problem(answer, 500)
    assert details["type"] == "/docs#problem-function-failed"
    assert details["detail"].startswith("The decision break_down failed with KeyError.")
    assert "secret-of-the-house" not in answer.text
    assert "retry-after" not in answer.headers, "sent again, it fails again"


async def test_a_decision_that_fails_is_logged_with_its_traceback(
    inside: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await inside.post("/commands/break", json={"account_id": "ann"})
    assert "POST /commands/break failed" in caplog.text
    assert "secret-of-the-house" in caplog.text
    assert "in break_down" in caplog.text


def test_a_command_that_takes_too_long_is_cancelled(http: httpx.Client) -> None:
    details = problem(http.post("/commands/dawdle", json={"account_id": "ann", "seconds": 30}), 503)
    assert "took too long" in details["detail"]


async def test_commands_have_places_that_queries_cannot_take(api: Api, inside: httpx.AsyncClient) -> None:
    quotas = api.wire.quotas
    with_places = [quotas.reads.__enter__() for _ in range(750)]
    try:
        refused = await inside.get("/queries/balances")
        problem(refused, 503)
        assert refused.headers["retry-after"] == "1"
        assert (await inside.post("/commands/deposit", json=DEPOSIT)).status_code == 200
    finally:
        for _ in with_places:
            quotas.reads.__exit__()
    assert (await inside.get("/queries/balances")).status_code == 200


async def test_commands_are_refused_too_when_every_place_is_taken(api: Api, inside: httpx.AsyncClient) -> None:
    for _ in range(1_000):
        api.wire.quotas.commands.__enter__()
    problem(await inside.post("/commands/deposit", json=DEPOSIT), 503)
    for _ in range(1_000):
        api.wire.quotas.commands.__exit__()
    assert (await inside.post("/commands/deposit", json=DEPOSIT)).status_code == 200

"""Only pages of this site may send, a local server answers to local names, every answer says what it allows."""

from collections.abc import Mapping

import httpx
import pytest

from tests.http.conftest import Server
from tests.http.http_helpers import DEPOSIT, problem
from tests.http.raw_http_helpers import request, say
from twofold import InvalidMessage, NotAuthorised
from twofold.http import Trust

REFUSED: list[Mapping[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://["},
    {"Origin": "ftp://{host}"},
    {"Origin": "http://{host}.evil.example"},
    {"Origin": "http://evil@{host}"},
    {"Origin": "http://{name}:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://{host}", "Sec-Fetch-Site": "cross-site"},
]


def filled(headers: Mapping[str, str], http: httpx.Client) -> dict[str, str]:
    host, name = http.base_url.netloc.decode(), http.base_url.host
    return {key: value.format(host=host, name=name) for key, value in headers.items()}


@pytest.mark.parametrize("headers", REFUSED)
def test_a_request_from_a_page_of_another_site_is_refused(http: httpx.Client, headers: Mapping[str, str]) -> None:
    answer = http.post("/commands/deposit", json=DEPOSIT, headers=filled(headers, http))
    assert problem(answer, 403)["field"] == "Origin"


@pytest.mark.parametrize("headers", REFUSED)
def test_pages_and_streams_are_protected_too(http: httpx.Client, headers: Mapping[str, str]) -> None:
    problem(http.post("/read", content=b"x", headers=filled(headers, http)), 403)
    problem(http.get("/events", headers=filled(headers, http) | {"Accept": "text/event-stream"}), 403)


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://{host}"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]
)
def test_a_request_from_a_page_of_this_site_is_accepted(http: httpx.Client, headers: Mapping[str, str]) -> None:
    assert http.post("/commands/deposit", json=DEPOSIT, headers=filled(headers, http)).status_code == 200


def test_reading_needs_no_origin(http: httpx.Client) -> None:
    assert http.get("/health/live", headers={"Origin": "https://other.example"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:80", "127.0.0.1", "127.0.0.1:9", "[::1]", "[::1]:8000", "LOCALHOST"]
)
def test_a_local_server_answers_to_its_names(server: Server, host: str) -> None:
    assert say(server.address, request("GET", "/health/live", host=host)).statuses == [200]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost@evil.example",
        "127.0.0.2",
        "[",
        "::1:1",
        "localhost/evil.example",
        "localhost:x",
        "localhost#",
        "[::1].evil.example",
    ],
)
def test_a_local_server_does_not_answer_to_other_names(server: Server, host: str) -> None:
    assert say(server.address, request("GET", "/health/live", host=host)).statuses == [403]


def test_a_request_without_a_host_or_with_two_is_refused(server: Server) -> None:
    assert say(server.address, b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n").statuses == [400]
    twice = request("GET", "/health/live", b"", "Host: localhost")
    assert say(server.address, twice).statuses == [400]


OPEN = "10.0.0.1"


@pytest.mark.parametrize(
    ("hosts", "server", "host", "answered"),
    [
        ({"shop.example"}, OPEN, "shop.example:443", True),
        ({"shop.example"}, OPEN, "SHOP.example", True),
        ({"shop.example"}, OPEN, "evil.example", False),
        ({"shop.example"}, OPEN, "localhost", False),
        ({"shop.example"}, OPEN, "10.0.0.1:8000", True),
        ({"shop.example"}, OPEN, "10.0.0.2", False),
        ({"shop.example"}, "127.0.0.1", "localhost", True),
        (set(), OPEN, "shop.example", False),
        (set(), OPEN, "localhost", False),
        (set(), OPEN, OPEN, True),
        (set(), "127.intern", "127.intern", False),
        (set(), "/run/twofold.sock", "localhost", True),
        (set(), "/run/twofold.sock", "shop.example", False),
    ],
)
def test_only_names_that_were_chosen_and_the_own_address_are_answered(
    hosts: set[str], server: str, host: str, answered: bool
) -> None:
    headers = [(b"host", host.encode())]
    scope = {"method": "GET", "headers": headers, "server": (server, 80)}
    trust = Trust(hosts=frozenset(hosts))
    if answered:
        trust.check(scope, dict(headers))
    else:
        with pytest.raises(NotAuthorised, match="--allow-host"):
            trust.check(scope, dict(headers))


def test_a_request_must_name_a_host() -> None:
    with pytest.raises(InvalidMessage, match="missing"):
        Trust().check({"method": "GET", "headers": [], "server": (OPEN, 80)}, {})


@pytest.mark.parametrize("path", ["/health/live", "/docs", "/docs/docs.js", "/nothing", "/", "/commands/nope"])
def test_every_answer_has_the_security_headers(http: httpx.Client, path: str) -> None:
    headers = http.get(path).headers
    policy = headers["content-security-policy"].split("; ")
    for directive in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'"):
        assert directive in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers


def test_answers_of_the_api_are_not_cached(http: httpx.Client) -> None:
    assert http.get("/queries/balances").headers["cache-control"] == "no-store"
    assert http.get("/commands/nope").headers["cache-control"] == "no-store"


def test_a_page_that_fails_is_a_500_without_details_of_the_code(http: httpx.Client) -> None:
    answer = http.get("/fail")
    problem(answer, 500)
    assert "secret" not in answer.text


def test_pages_are_served_beside_the_api(http: httpx.Client) -> None:
    assert http.get("/").text == "the bank"
    assert http.post("/read", content=b"12345").text == "5"

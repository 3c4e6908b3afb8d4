"""The client of a running `serve`: what it sends, and what becomes of what comes back."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import msgspec
import pytest

from twofold.cli.remote import Remote
from twofold.errors import (
    CommandIdReused,
    Conflict,
    GenerationChanged,
    InvalidMessage,
    NotAuthorised,
    Refused,
    Rejected,
    TwofoldError,
    Unavailable,
    UndeclaredAccess,
    UnknownMessage,
    WiringError,
)
from twofold.http.problems import KINDS, HttpRefused, headers_of, problem_of


@contextmanager
def server(status: int, headers: dict[str, str], body: bytes) -> Iterator[tuple[str, list[tuple[str, str, Any]]]]:
    """A server with one answer to everything: its URL, and what it was sent."""
    seen: list[tuple[str, str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", 0))
            seen.append((self.command, self.path, json.loads(self.rfile.read(length)) if length else None))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            return

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}", seen
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_it_sends_json_and_gives_back_what_the_json_says() -> None:
    with server(200, {}, b'{"generation": 7}') as (url, seen):
        asked = Remote(f"{url}/")
        assert asked.get("/status") == {"generation": 7}
        assert asked.post("/projections/pages/switch", {"force": True}) == {"generation": 7}
        assert asked.post("/projections/pages/switch-back") == {"generation": 7}
    assert seen == [
        ("GET", "/status", None),
        ("POST", "/projections/pages/switch", {"force": True}),
        ("POST", "/projections/pages/switch-back", {}),
    ]


ERRORS: list[TwofoldError] = [
    Rejected("too-many", "No more than three."),
    NotAuthorised("Not from there."),
    InvalidMessage("No rebuild is under way.", field="name"),
    UnknownMessage("There is no projection 'x'.", field="name"),
    UndeclaredAccess("Declare it.", field="find_by"),
    CommandIdReused("It stands for another."),
    Conflict("Others came first."),
    GenerationChanged("Generation 3 is under way."),
    Unavailable("It is behind.", lag=12, retry_after=3.0),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_problem_comes_out_as_the_error_that_went_in(error: TwofoldError) -> None:
    problem = problem_of(error)
    headers = {name.decode(): value.decode() for name, value in headers_of(error, problem.status)}
    with server(problem.status, headers, msgspec.json.encode(problem)) as (url, _), pytest.raises(TwofoldError) as got:
        Remote(url).post("/projections/pages/switch")
    assert type(got.value) is type(error)
    assert str(got.value) == str(error)
    assert vars(got.value) == vars(error)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_problem_is_an_error_of_ours(kind: str) -> None:
    problem = problem_of(HttpRefused(kind, "So it is.", field="body"))
    with server(problem.status, {}, msgspec.json.encode(problem)) as (url, _), pytest.raises(TwofoldError) as got:
        Remote(url).get("/status")
    assert "So it is." in str(got.value)
    assert not isinstance(got.value, WiringError)


def test_where_nobody_listens_or_answers_the_error_names_the_address_and_the_cure() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"{url} does not answer.*twofold serve"):
            Remote(url).get("/status")
        free.listen()
        with pytest.raises(Unavailable, match="timed out"):
            Remote(url, seconds=0.2).get("/status")


@pytest.mark.parametrize(
    ("status", "headers", "body", "error"),
    [
        (200, {}, b"<html>hello</html>", WiringError),
        (404, {}, b"<html>no</html>", WiringError),
        (502, {}, b"<html>bad gateway</html>", Unavailable),
        (307, {"location": "http://127.0.0.1:1/elsewhere"}, b"", WiringError),
        (
            400,
            {"content-type": "application/problem+json"},
            b'{"type": "/docs#problem-new", "detail": "New."}',
            Refused,
        ),
    ],
)
def test_another_server_is_not_taken_for_ours(
    status: int, headers: dict[str, str], body: bytes, error: type[TwofoldError]
) -> None:
    with server(status, headers, body) as (url, seen), pytest.raises(error):
        Remote(url).post("/projections/pages/switch-back")
    assert len(seen) == 1


def test_a_server_on_this_machine_is_asked_past_every_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with server(200, {}, b"[]") as (url, _):
        assert Remote(url).get("/") == []


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://here", "http://", "http://h:99999", "http://u:p@h", "http://h/?a=b", "http://h\n"]
)
def test_what_is_no_address_of_a_server_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(WiringError, match="http://HOST:PORT"):
        Remote(url)

"""Streams follow the log, a read model and the status; they are counted, kept alive, and end when a side leaves."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from tests.http.bank_server import SHORT
from tests.http.conftest import Server
from tests.http.http_helpers import problem
from tests.http.raw_http_helpers import Address, connect, listen, request
from tests.http.test_queries import deposit
from twofold import App
from twofold.http import Api, asgi

STREAM = {"Accept": "text/event-stream"}


class Frame(NamedTuple):
    """One event of a stream."""

    event: str
    data: Any
    id: str | None


def frames_of(answer: httpx.Response) -> Iterator[Frame]:
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield Frame(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}
        else:
            fields = {}


def test_a_stream_of_events_follows_the_log_and_continues_where_it_stopped(http: httpx.Client) -> None:
    before = deposit(http, "stream-0")
    with http.stream("GET", "/events", params={"after": before, "tag": "account:stream-1"}, headers=STREAM) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        frames = frames_of(answer)
        tokens = [deposit(http, account) for account in ("stream-1", "stream-2", "stream-1")]
        first, second = next(frames), next(frames)
    assert [frame.event for frame in (first, second)] == ["event", "event"]
    assert [first.id, second.id] == [tokens[0], tokens[2]]
    assert first.data["data"] == {"account_id": "stream-1", "cents": 100}
    headers = STREAM | {"Last-Event-ID": tokens[0]}
    with http.stream("GET", f"/events?after={before}&tag=account:stream-1", headers=headers) as answer:
        assert next(frames_of(answer)).id == tokens[2]


def test_a_stream_of_a_query_sends_each_new_answer_once(http: httpx.Client) -> None:
    token = deposit(http, "live-1", 5)
    query = "/queries/balance-of?account_id=live-1&position=" + token
    with http.stream("GET", query, headers=STREAM) as answer:
        frames = frames_of(answer)
        assert next(frames).data["answer"]["cents"] == 5
        deposit(http, "live-other")
        deposit(http, "live-1", 6)
        second = next(frames)
    assert (second.event, second.data["answer"]["cents"]) == ("answer", 11)
    assert set(second.data) == {"answer", "position", "token", "parked", "parked_count"}


def test_a_stream_of_the_status_sends_the_numbers_every_second(http: httpx.Client) -> None:
    with http.stream("GET", "/status", headers=STREAM) as answer:
        frames = frames_of(answer)
        head = next(frames).data["head"]
        deposit(http, "status-1")
        second = next(frames)
    assert (second.event, second.data["head"]) == ("status", head + 1)


def test_a_stream_that_cannot_start_is_refused_with_a_problem(http: httpx.Client) -> None:
    problem(http.get("/queries/balance-of", headers=STREAM), 400)
    problem(http.get("/queries/broken", headers=STREAM), 500)
    problem(http.get("/events?after=nonsense", headers=STREAM), 400)
    problem(http.get("/events?after=main.1.999999", headers=STREAM), 400)


def test_head_of_a_stream_ends_at_once(http: httpx.Client) -> None:
    answer = http.head("/events", headers=STREAM)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")


def test_a_silent_stream_is_kept_alive(server: Server) -> None:
    with connect(server.address) as connection:
        connection.sendall(request("GET", "/events?tag=account:none", b"", "Accept: text/event-stream"))
        received = listen(connection, until=b": heartbeat\n\n")
    assert b": heartbeat\n\n" in received.data


def test_pages_of_the_log_continue_with_their_token(http: httpx.Client) -> None:
    start = deposit(http, "pages")
    tokens = [deposit(http, f"page-{number}") for number in range(5)]
    seen: list[str] = []
    after = start
    while True:
        page = http.get("/events", params={"after": after, "limit": 2, "type": "deposited"}).json()
        if not page["events"]:
            break
        seen += [event["tags"][0] for event in page["events"]]
        after = page["token"]
    assert seen == [f"account:page-{number}" for number in range(5)]
    assert after == tokens[-1]


def test_an_event_is_sent_with_all_its_fields(http: httpx.Client) -> None:
    before = deposit(http, "known-0")
    http.post("/commands/deposit", json={"account_id": "known", "cents": 3}, headers={"Idempotency-Key": "known-key"})
    (event,) = http.get("/events", params={"after": before}).json()["events"]
    assert event.pop("position") > 0 and event.pop("time").endswith("Z")
    assert event == {
        "id": "known-key.0",
        "type": "deposited",
        "version": 1,
        "tags": ["account:known"],
        "data": {"account_id": "known", "cents": 3},
        "actor": None,
        "command_id": "known-key",
        "correlation_id": "known-key",
        "causation_id": None,
        "depth": 0,
    }


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *[(f"limit={bad}", "limit") for bad in ("0", "1001", "x", "²")],
        *[(f"tag={bad}", "tag") for bad in ("account", ":x", "account:", "account:%00")],
        ("type=moove", "type"),
        ("after=x", "after"),
        ("befor=x", "befor"),
    ],
)
def test_an_invalid_request_for_events_is_refused(http: httpx.Client, query: str, field: str) -> None:
    assert problem(http.get(f"/events?{query}"), 400)["field"] == field


# ---------------------------------------------------------------------------------------------------------------- slots


def open_stream(address: Address) -> Any:
    connection = connect(address)
    connection.sendall(request("GET", "/events?tag=account:none", b"", "Accept: text/event-stream"))
    return connection


def test_the_streams_of_a_client_are_limited_and_freed(start: Callable[..., Server]) -> None:
    server = start()
    held = [open_stream(server.address) for _ in range(SHORT.streams_per_client)]
    for connection in held:
        assert b"retry:" in listen(connection, until=b"retry: 2000\n\n").data
    with httpx.Client(base_url=server.url) as http:
        refused = http.get("/events", headers=STREAM)
        assert "from your address" in problem(refused, 503)["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        assert http.get("/events").status_code == 200
        for connection in held:
            connection.close()
        assert becomes_free(http)


def becomes_free(http: httpx.Client) -> bool:
    """Whether a stream can be had again within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with http.stream("GET", "/events?tag=account:none", headers=STREAM) as answer:
            if answer.status_code == 200:
                return True
    return False


def test_two_hundred_clients_that_leave_before_the_first_byte_leave_no_slot_taken(start: Callable[..., Server]) -> None:
    server = start()
    for _ in range(200):
        open_stream(server.address).close()
    with httpx.Client(base_url=server.url) as http:
        assert becomes_free(http)
        held = []
        deadline = time.monotonic() + 60
        while len(held) < SHORT.streams_per_client and time.monotonic() < deadline:
            connection = open_stream(server.address)
            if b" 200 " in listen(connection, until=b"\r\n\r\n").data:
                held.append(connection)
        assert len(held) == SHORT.streams_per_client
        for connection in held:
            connection.close()


async def test_the_streams_of_a_node_are_limited(app: App) -> None:
    api = asgi(app, limits=msgspec.structs.replace(SHORT, streams=3))
    begun = [asyncio.Event() for _ in range(3)]
    following = [asyncio.create_task(follow(api, f"127.0.1.{n}", begun=event)) for n, event in enumerate(begun)]
    await asyncio.gather(*(event.wait() for event in begun))
    assert await follow(api, "127.0.0.9") == 503
    api.drain()
    assert await asyncio.gather(*following) == [200, 200, 200]
    assert api.wire.streams.open == 0


async def test_no_stream_starts_while_the_process_is_about_to_stop(api: Api) -> None:
    api.drain()
    assert await follow(api, "127.0.0.1") == 503
    assert api.wire.streams.open == 0


async def test_the_stream_of_a_client_that_does_not_read_is_closed(app: App) -> None:
    api = asgi(app, limits=msgspec.structs.replace(SHORT, write_seconds=0.1))
    status = await asyncio.wait_for(follow(api, "127.0.0.1", reads=False), 30)
    assert (status, api.wire.streams.open) == (200, 0)


async def follow(api: Api, client: str, *, reads: bool = True, begun: asyncio.Event | None = None) -> int:
    """Open a stream straight at the application; its status once it has ended."""
    never: asyncio.Event = asyncio.Event()
    statuses: list[int] = []

    async def receive() -> Any:
        await never.wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            if begun is not None:
                begun.set()
        elif not reads and message.get("more_body"):
            await never.wait()

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/events",
        "query_string": b"tag=account:none",
        "headers": [(b"host", b"testserver"), (b"accept", b"text/event-stream")],
        "client": (client, 1),
        "server": ("testserver", 80),
    }
    await api(scope, receive, send)
    return statuses[0]

"""Few callers cannot take the memory of a server: it stays under 300 MB, and others are answered meanwhile.

Each flood meets a server in a process of its own, with the limits that `twofold serve` has.
"""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.http.flood_helpers import closed, connected, fill, serving_documents
from tests.http.raw_http_helpers import request

EVENTS, SIZE = 120, 900_000
READ = 40


class Seen(msgspec.Struct):
    """The position of an event."""

    position: int


class Page(msgspec.Struct):
    """A page of events, without what is large."""

    events: list[Seen]
    token: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A log of 108 MB."""
    folder = tmp_path_factory.mktemp("large")
    asyncio.run(fill(folder, EVENTS, SIZE))
    yield folder
    for path in folder.iterdir():
        path.unlink()


def test_pages_of_large_events_for_many_readers_at_once(folder: Path) -> None:
    with serving_documents(folder) as server:
        readers = [threading.Thread(target=read_pages, args=(server.url,)) for _ in range(8)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        server.check()


def read_pages(url: str) -> None:
    """Read the log from its beginning, as much of it as a page may have, and then on."""
    seen: list[int] = []
    with httpx.Client(base_url=url, timeout=60) as http:
        after = ""
        while len(seen) < READ:
            answer = http.get("/events", params={"limit": 1000, "after": after} if after else {"limit": 1000})
            assert answer.status_code == 200, answer.text
            page = msgspec.json.decode(answer.content, type=Page)
            seen += [event.position for event in page.events]
            after = page.token
    assert seen == list(range(1, len(seen) + 1))


def test_two_hundred_readers_of_pages_that_never_read_them(folder: Path) -> None:
    with serving_documents(folder) as server:
        connections = connected(server.address, 200, request("GET", "/events?limit=1000"), buffer=4096)
        server.answered(100)
        server.check()
        closed(connections)


def test_three_hundred_bodies_that_are_sent_by_half(folder: Path) -> None:
    head = b"POST /commands/write HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 1048576\r\n\r\n"
    with serving_documents(folder) as server:
        connections = connected(server.address, 300, head + b'{"document_id": "x", "text": "' + b"x" * 1_000_000)
        server.answered(30)
        whole = httpx.post(f"{server.url}/commands/write", json={"document_id": "l", "text": "x" * 200_000}, timeout=60)
        assert whole.status_code == 200, "a whole body is taken, although others hold the memory"
        server.check()
        closed(connections)


@pytest.mark.parametrize("path", ["/events", "/queries/documents?limit=120"])
def test_a_hundred_readers_of_streams_that_never_read(folder: Path, path: str) -> None:
    stream = request("GET", path, b"", "Accept: text/event-stream")
    with serving_documents(folder) as server:
        connections = connected(server.address, 100, stream, buffer=4096)
        server.answered(60)
        server.check()
        closed(connections)


def test_a_thousand_idle_connections_with_a_thousand_and_twenty_four_files(folder: Path) -> None:
    with serving_documents(folder, "1024") as server:
        idle: list[socket.socket] = []
        for _ in range(3):
            idle += connected(server.address, 1_000, b"")
            # New connections are taken, not only those that were there before.
            assert httpx.get(f"{server.url}/health/ready", timeout=10).status_code == 200
            body = {"document_id": "new", "text": "small"}
            assert httpx.post(f"{server.url}/commands/write", json=body, timeout=10).status_code == 200
            assert httpx.get(f"{server.url}/queries/documents", timeout=10).status_code == 200
        server.check()
        closed(idle)

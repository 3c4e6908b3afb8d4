"""Bodies that arrive share a budget: the slowest is refused for others, and only if there is none the new one."""

import asyncio
from typing import Any

import pytest

from twofold import App
from twofold.http import Api, Limits, asgi
from twofold.http.budgets import GRACE

BODY = b'{"account_id": "ann", "cents": 1}'


class Sending:
    """A request whose body a test sends piece by piece, straight at the application."""

    def __init__(self, api: Api) -> None:
        self._pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.task = asyncio.create_task(api(_scope(), self._pieces.get, self._send))

    async def sends(self, piece: bytes, *, more: bool = True) -> None:
        """Send a piece, and let the application take it."""
        await self._pieces.put({"type": "http.request", "body": piece, "more_body": more})
        await asyncio.wait([self.task], timeout=0.05)

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])


def _scope() -> dict[str, Any]:
    headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
    path = {"type": "http", "method": "POST", "path": "/commands/deposit", "query_string": b"", "headers": headers}
    return {**path, "client": ("127.0.0.1", 1), "server": ("testserver", 80)}


@pytest.fixture
def small(app: App) -> Api:
    """An application with room for bodies of 100,000 bytes together."""
    return asgi(app, limits=Limits(bodies_bytes=100_000))


async def test_a_body_without_room_is_refused_and_the_room_is_free_again_afterwards(small: Api) -> None:
    first, second = Sending(small), Sending(small)
    await first.sends(b" " * 60_000)
    await second.sends(b" " * 60_000)
    assert (second.status, second.headers[b"connection"], second.headers[b"retry-after"]) == (503, b"close", b"1")
    await first.sends(BODY, more=False)
    await first.task
    assert (first.status, small.wire.budgets.bodies.used) == (200, 0)


async def test_the_body_that_has_arrived_longest_is_refused_for_another(small: Api) -> None:
    slow = Sending(small)
    await slow.sends(b" " * 60_000)
    await small.wire.app.world.sleep(GRACE)
    other = Sending(small)
    await other.sends(b" " * 60_000)
    await slow.task
    assert (slow.status, other.status) == (408, 0)
    await other.sends(BODY, more=False)
    await other.task
    assert (other.status, small.wire.budgets.bodies.used) == (200, 0)


async def test_a_small_body_that_comes_as_a_whole_needs_no_room(small: Api) -> None:
    full = Sending(small)
    await full.sends(b" " * 100_000)
    whole = Sending(small)
    await whole.sends(BODY, more=False)
    await whole.task
    assert (whole.status, full.status) == (200, 0)
    full.task.cancel()
    await asyncio.gather(full.task, return_exceptions=True)
    assert small.wire.budgets.bodies.used == 0

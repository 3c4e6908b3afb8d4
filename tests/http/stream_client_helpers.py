"""A client of a stream without a server, which may stop reading."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from twofold.http import Api


class StreamClient:
    """Reads a stream straight at the application. `pieces` are the bodies that were sent to it.

    Without `reads` it takes no piece that has data.
    """

    def __init__(
        self,
        api: Api,
        path: str = "/events",
        query: str = "",
        *,
        reads: bool = True,
        received: Callable[[], object] = lambda: None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        self._headers = headers
        self._api = api
        self._path = path
        self._query = query
        self._reads = reads
        self._received = received
        self._never = asyncio.Event()
        self.pieces: list[bytes] = []
        self.refused = 0
        """Pieces that it would not take."""

    @property
    def ids(self) -> list[str]:
        lines = b"".join(self.pieces).decode().splitlines()
        return [line.removeprefix("id: ") for line in lines if line.startswith("id: ")]

    async def run(self) -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": self._path,
            "query_string": self._query.encode(),
            "headers": [(b"host", b"testserver"), (b"accept", b"text/event-stream"), *self._headers],
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 80),
        }
        await self._api(scope, self._receive, self._send)

    async def _receive(self) -> Any:
        await self._never.wait()

    async def _send(self, message: Any) -> None:
        if not (body := message.get("body")):
            return
        if not self._reads and b"data:" in body:
            self.refused += 1
            await self._never.wait()
        self.pieces.append(body)
        self._received()


@asynccontextmanager
async def streaming(client: StreamClient) -> AsyncIterator[None]:
    running = asyncio.create_task(client.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

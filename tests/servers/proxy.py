"""A bad network between a client and PostgreSQL: connections break at a chosen moment, or stop responding.

It reads the protocol just far enough to know where a request and its answer end, so that a test can say: the server has
committed, and the client never learns. It runs on the loop of the test.
"""

import asyncio
import contextlib
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Self

from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.server import LOOPBACK, ServerError, free_port

_ENCRYPTION = (80877103, 80877104)  # the client asks for TLS, for GSSAPI
_CANCELLATION = 80877102
# Parse, Bind, Execute, Describe, Close: nothing happens before what follows them, so they wait for it.
_BEGINNING = frozenset(b"PBEDC")
# Sync, simple query, function call: the server answers them with ReadyForQuery.
_ENDING = frozenset(b"SQF")
_SYNC = ord("S")
_EXECUTE = ord("E")
_READY = ord("Z")
_COPY_IN = ord("G")


class At(Enum):
    """Where the connection breaks."""

    REQUEST = "the server never sees the request"
    ANSWER = "the server has done it all, the client sees nothing of the answer"
    HALFWAY = "the server has done it all, the client sees half the bytes of the answer"


@dataclass
class Cuts:
    """Which requests lose their connection. `made` says how many did."""

    at: tuple[At, ...]
    matching: Callable[[bytes], bool]
    times: int | None
    probability: float
    random: Random
    made: int = 0

    def at_which(self, request: bytes) -> At | None:
        if self.made == self.times or not self.matching(request) or self.random.random() >= self.probability:
            return None
        self.made += 1
        return self.random.choice(self.at)


class Proxy:
    """Listens on `port` and speaks to the server on the port it is given. An async context manager.

    Nothing breaks unasked. A client that asks for encryption is answered no.
    """

    def __init__(self, to: int) -> None:
        self.port = free_port()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.cuts: Cuts | None = None
        self._to = to
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._listener: asyncio.Server | None = None

    def dsn_of(self, server: Postgres | PgBouncer) -> str:
        """The server's dsn, by way of this proxy."""
        return server.dsn.replace(f":{server.port}/", f":{self.port}/")

    def cut(
        self,
        *at: At,
        matching: bytes | Callable[[bytes], bool] = b"",
        times: int | None = 1,
        probability: float = 1.0,
        seed: int = 0,
    ) -> Cuts:
        """From now on break the connection of requests that match, until so many `times` (None: always).

        A request is all that a client sends up to a Sync, or a simple query: the bytes, and the SQL of the prepared
        statements it executes; one that only prepares is left alone. `probability` is for each that matches; of several
        places chance chooses one.
        """

        def matches(request: bytes) -> bool:
            return matching(request) if callable(matching) else matching in request

        self.cuts = Cuts(at or (At.ANSWER,), matches, times, probability, Random(seed))
        return self.cuts

    def cut_nothing(self) -> None:
        self.cuts = None

    def cut_all(self) -> None:
        """Break every connection now; new ones can be made at once."""
        for connection in self._connections.values():
            connection.reset()

    def stall(self) -> None:
        """Forward nothing, in no direction, and break nothing, until `resume()`. New connections hang too."""
        self.flowing.clear()

    def resume(self) -> None:
        self.flowing.set()

    @property
    def connections(self) -> int:
        return sum(not task.done() for task in self._connections)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Raises what went wrong within the proxy itself."""
        assert self._listener is not None
        self._listener.close()
        self.resume()
        self.cut_all()
        await asyncio.gather(*self._connections)
        await self._listener.wait_closed()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        connection = _Connection(self, reader, writer)
        self._connections[asyncio.create_task(connection.run(self._to))] = connection


class _Connection:
    def __init__(self, proxy: Proxy, reader: StreamReader, writer: StreamWriter) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = reader, writer
        self._to_server: StreamWriter | None = None
        # What becomes of each answer that is due, in order. The first is the greeting.
        self._due: deque[At | None] = deque([None])
        self._statements: dict[bytes, bytes] = {}
        self._reset = False

    def reset(self) -> None:
        """End both sides at once, and roughly: RST, not FIN."""
        self._reset = True
        for writer in (self._to_client, self._to_server):
            if writer is not None and not writer.is_closing():
                connection: socket.socket = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def run(self, to: int) -> None:
        pumps: list[asyncio.Task[None]] = []
        try:
            from_server, to_server = await asyncio.open_connection(LOOPBACK, to)
            self._to_server = to_server
            if self._reset:
                return
            pumps = [
                asyncio.create_task(self._requests(to_server)),
                asyncio.create_task(self._answers(from_server)),
            ]
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            # Where one side hangs up, both are closed.
            with contextlib.suppress(asyncio.IncompleteReadError):
                await done.pop()
        except ConnectionError:
            self.reset()
        finally:
            await self._close(pumps)

    async def _close(self, pumps: "list[asyncio.Task[None]]") -> None:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        if self._reset:
            self.reset()
        self._to_client.close()
        if self._to_server is not None:
            self._to_server.close()

    async def _requests(self, to_server: StreamWriter) -> None:
        await self._forward(to_server, await self._opening())
        waiting, text, executes = bytearray(), bytearray(), False
        while True:
            message = await _message(self._from_client)
            waiting += message
            text += message
            text += self._prepared(message)
            if message[0] in _BEGINNING:
                executes |= message[0] == _EXECUTE
                continue
            if message[0] in _ENDING:
                # A Sync may also end what only prepares.
                cuts = self._proxy.cuts if executes or message[0] != _SYNC else None
                at = cuts.at_which(bytes(text)) if cuts else None
                if at is At.REQUEST:
                    return self.reset()
                self._due.append(at)
                text.clear()
                executes = False
            await self._forward(to_server, bytes(waiting))
            waiting.clear()

    async def _answers(self, from_server: StreamReader) -> None:
        answer = bytearray()
        while True:
            message = await _message(from_server)
            at = self._due[0] if self._due else None
            if message[0] == _COPY_IN and at is not None:
                raise ServerError("the proxy cannot cut COPY FROM STDIN: its answer begins before its request ends")
            if at is None:
                await self._forward(self._to_client, message)
            else:
                answer += message
            if message[0] == _READY and self._due:
                self._due.popleft()
                if at is At.HALFWAY:
                    await self._forward(self._to_client, bytes(answer[: len(answer) // 2]))
                if at is not None:
                    return self.reset()

    async def _opening(self) -> bytes:
        """The first message that the server shall see. The opening ones have no letter."""
        while True:
            head = await self._from_client.readexactly(8)
            length, code = struct.unpack("!ii", head)
            message = head + await self._from_client.readexactly(length - 8)
            if code not in _ENCRYPTION:
                return message
            await self._forward(self._to_client, b"N")

    def _prepared(self, message: bytes) -> bytes:
        """The SQL of the statement that a Bind names; a Parse is remembered."""
        if message[:1] == b"P":
            name, sql, _ = message[5:].split(b"\0", 2)
            self._statements[name] = sql
        elif message[:1] == b"B":
            _, name, _ = message[5:].split(b"\0", 2)
            return self._statements.get(name, b"")
        return b""

    async def _forward(self, writer: StreamWriter, data: bytes) -> None:
        await self._proxy.flowing.wait()
        writer.write(data)
        await writer.drain()


async def _message(reader: StreamReader) -> bytes:
    """The next message: a letter, its length without the letter, the rest."""
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)

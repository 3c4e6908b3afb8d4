"""Limits that uvicorn does not have: of connections, of headers (time and size), and of clients that do not read."""

from asyncio import AbstractEventLoop, TimerHandle, Transport
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as UvicornConnection
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from twofold.http.limits import Limits

_WRITE_BUFFER = 32_768
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-type: text/plain\r\n"
    b"content-length: 44\r\n\r\nToo many connections are open. Try it again."
)


class Connections:
    """The connections of one server: which of them wait for their clients, those that wait longest first.

    A connection waits between two requests and until a request has arrived as a whole.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0
        self._waiting: dict[LimitedConnection, None] = {}

    def opened(self, connection: "LimitedConnection") -> bool:
        """Whether there is room for one more. If necessary, the one that waits longest for its client is closed."""
        self._open += 1
        if self._open > self._most and not self._close_longest_waiting():
            return False
        self.waits(connection)
        return True

    def closed(self, connection: "LimitedConnection") -> None:
        self._open -= 1
        self._waiting.pop(connection, None)

    def waits(self, connection: "LimitedConnection") -> None:
        """Note that a connection waits for its client from now on."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    def waits_no_longer(self, connection: "LimitedConnection") -> None:
        self._waiting.pop(connection, None)

    def _close_longest_waiting(self) -> bool:
        while self._waiting:
            connection = next(iter(self._waiting))
            del self._waiting[connection]
            if connection.waits_for_client:
                connection.transport.abort()
                return True
        return False


class JoinedHead:
    """The transport of one response. Its head goes out with the first piece of its body, in one call of the system.

    The head waits for this piece until the next turn of the event loop.
    """

    __slots__ = ("_begun", "_head", "_loop", "_transport")

    def __init__(self, transport: Transport, loop: AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._head = data
            self._loop.call_soon(self._flush)
        elif self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""


class LimitedConnection(UvicornConnection):
    """A connection of the server. It is closed if headers are too slow or too large, or if answers are not read."""

    limits = Limits()
    all_connections = Connections(limits.connections)

    _header_timer: TimerHandle | None = None
    _write_timer: TimerHandle | None = None
    _in_headers = False
    _header_size = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        if self.all_connections.opened(self):
            self._await_headers()
        else:
            transport.write(_FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        self.all_connections.closed(self)
        super().connection_lost(exc)

    @property
    def waits_for_client(self) -> bool:
        """Whether no request of this connection is in progress, apart from what has arrived of the next one."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return not self.pipeline and (cycle is None or cycle.response_complete or cycle.more_body)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Headers that arrive in one piece, as nearly all do, cost no timer.
        if self._in_headers and self._header_timer is None:
            self._await_headers()

    def on_message_begin(self) -> None:
        self._in_headers = True
        self._header_size = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        before = self.cycle
        super().on_headers_complete()
        # An upgrade that is refused is answered without a cycle.
        if self.cycle is not before:
            self.cycle.transport = JoinedHead(self.transport, self.loop)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.all_connections.waits_no_longer(self)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.all_connections.waits(self)

    def pause_writing(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_seconds, self._abort)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_seconds, self._abort)

    def _count(self, size: int) -> None:
        self._header_size += size
        if self._header_size > self.limits.header_bytes:
            # The parser turns this into a 400 that closes the connection.
            raise ValueError("headers too large")

    def _abort(self) -> None:
        self._header_timer = None
        self.transport.abort()

    def _stop_timers(self) -> None:
        for timer in (self._header_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = self._write_timer = None


def connection_with(limits: Limits) -> Any:
    """A class of connections with these limits (uvicorn takes a class and passes no other arguments)."""
    own = {"limits": limits, "all_connections": Connections(limits.connections)}
    return type("LimitedConnection", (LimitedConnection,), own)

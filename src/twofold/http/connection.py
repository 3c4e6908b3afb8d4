"""Limits that uvicorn does not have: the time and size of headers, and clients that do not read their answers."""

from asyncio import TimerHandle, Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as UvicornConnection

from twofold.http.limits import Limits


class LimitedConnection(UvicornConnection):
    """A connection of the server. It is closed if headers are too slow or too large, or if answers are not read."""

    limits = Limits()

    _header_timer: TimerHandle | None = None
    _write_timer: TimerHandle | None = None
    _in_headers = False
    _header_size = 0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

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
        super().on_headers_complete()

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
    return type("LimitedConnection", (LimitedConnection,), {"limits": limits})

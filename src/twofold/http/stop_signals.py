"""The end of streams on SIGTERM and SIGINT under any ASGI server.

Servers wait for open connections before they send the lifespan shutdown, and a stream ends only when its application
ends it. So the signal itself has to be noticed: a handler is put before the one of the server, and calls it.
"""

import asyncio
import functools
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any
from weakref import WeakSet

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Calls `stop` on the event loop of `watch` when the server gets a signal to stop."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self._stop = stop
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self) -> None:
        """Begin, or go on if the server has replaced its handlers. Nothing happens outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._loop = asyncio.get_running_loop()
        _watching.add(self)
        for number in _SIGNALS:
            current = signal.getsignal(number)
            if callable(current) and _is_of_a_server(current):
                signal.signal(number, _Before(current))

    def arrived(self) -> None:
        """Call `stop` soon. Runs within a signal handler."""
        # A loop that is closed has no streams.
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop)


_watching: WeakSet[StopSignals] = WeakSet()


class _Before:
    """A signal handler that lets all streams end, and calls the one that was there."""

    def __init__(self, server: Callable[[int, FrameType | None], Any]) -> None:
        self._server = server

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for each in list(_watching):
            each.arrived()
        self._server(number, frame)


def _is_of_a_server(handler: Callable[..., Any]) -> bool:
    """Whether a handler stops a server. Those of Python and asyncio interrupt what runs, which may go on."""
    if isinstance(handler, _Before) or handler is signal.default_int_handler:
        return False
    function = handler.func if isinstance(handler, functools.partial) else handler
    return not isinstance(getattr(function, "__self__", None), asyncio.Runner)

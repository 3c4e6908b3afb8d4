"""Server-sent events: how many streams there may be, heartbeats, and the end when either side leaves."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from twofold.errors import NotAuthenticated, NotAuthorised, TwofoldError, Unavailable
from twofold.http.budgets import Holding
from twofold.http.exchange import Exchange, pieces_of
from twofold.http.limits import Deadlines, Limits, took_too_long
from twofold.http.problems import is_bug, problem_of
from twofold.http.stop_signals import StopSignals
from twofold.loop_time import LoopTime
from twofold.world import World

log = logging.getLogger(__name__)

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Some proxies buffer answers to send them in one piece.
    (b"x-accel-buffering", b"no"),
]
OPENING = b"retry: 2000\n\n"
HEARTBEAT = b": heartbeat\n\n"

_encode = msgspec.json.Encoder().encode

Frames = AsyncGenerator[bytes, float | None]
"""Frames to send. It gets back how many seconds of the event loop it took to send the last one; None at first."""


def frame(event: str, data: object, token: str | None = None) -> bytes:
    """One server-sent event; `token` is what the browser sends as Last-Event-ID when it reconnects."""
    head = b"" if token is None else b"id: %s\n" % token.encode()
    return b"%sevent: %s\ndata: %s\n\n" % (head, event.encode(), _encode(data))


class StreamOutput:
    """What one stream sends: whole frames one after another, and a heartbeat where there is silence."""

    def __init__(self, exchange: Exchange, world: World, limits: Limits) -> None:
        self._exchange = exchange
        self._world = world
        self._limits = limits
        self._sending = asyncio.Lock()
        self._last = world.monotonic()

    async def open(self) -> None:
        async with self._sending:
            await self._exchange.open(HEADERS)

    async def send(self, frames: bytes) -> float:
        """Send one or more frames. Returns, when the client has read most of them, how many seconds of the event loop
        that took. TimeoutError where it reads too slowly."""
        async with self._sending:
            sending = LoopTime(self._write(frames), self._world)
            await sending
            self._last = self._world.monotonic()
        # Nothing waits for a client that reads fast: others on this loop need a turn.
        await self._world.sleep(0)
        return sending.seconds

    async def _write(self, frames: bytes) -> None:
        for piece in pieces_of(frames):
            await self._world.within(self._limits.write_seconds, self._exchange.write(piece))
        await self._world.within(self._limits.write_seconds, self._exchange.drain())

    async def keep_alive(self) -> None:
        """Send a heartbeat after each time of silence, until this is cancelled."""
        while True:
            left = self._last + self._limits.heartbeat_seconds - self._world.monotonic()
            if left <= 0 and not self._sending.locked():
                await self.send(HEARTBEAT)
            else:
                await self._world.sleep(left if left > 0 else self._limits.heartbeat_seconds)


class Streams:
    """All streams of this process. `draining`, once set, ends them."""

    def __init__(self, world: World, limits: Limits, deadlines: Deadlines) -> None:
        self._world = world
        self._limits = limits
        self._deadlines = deadlines
        self._clients: dict[str, int] = {}
        self.open = 0
        self.draining = asyncio.Event()
        self.stop_signals = StopSignals(self.draining.set)

    async def serve(self, exchange: Exchange, frames: Frames, holding: Holding) -> None:
        """Send `frames` until they end, the client leaves or reads too slowly, or the process stops.

        The first frame is awaited before anything is sent, so that a request that fails gets its problem. `holding` is
        what the frames count their bytes in. A frame is asked for when the client has read most of the one before.
        """
        self.stop_signals.watch()
        slot = self._take(exchange.caller)
        tasks: list[asyncio.Task[Any]] = []
        try:
            if exchange.method == "HEAD":
                await exchange.open(HEADERS)
                await exchange.finish()
                return
            tasks.append(asyncio.create_task(exchange.gone(), name="stream-gone"))
            first = await self._deadlines.within(self._limits.request_seconds, anext(frames, None), took_too_long)
            if first is None:
                raise _leaving()
            # A frame that was sent must not stay in memory as long as its stream.
            unsent, first = [first], None
            output = StreamOutput(exchange, self._world, self._limits)
            tasks.append(asyncio.create_task(self._pump(exchange, output, unsent, frames), name="stream"))
            holding.cancel = tasks[1].cancel
            tasks.append(asyncio.create_task(self.draining.wait(), name="stream-drained"))
            tasks.append(asyncio.create_task(output.keep_alive(), name="stream-heartbeats"))
            tasks.append(asyncio.create_task(self._while_admitted(exchange), name="stream-access"))
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            whole = tasks[1].done() and not tasks[1].cancelled() and tasks[1].exception() is None
            if not tasks[0].done() and (whole or tasks[2].done() or tasks[4].done()):
                tasks[3].cancel()
                await self._end(exchange, tasks[1])
        finally:
            holding.cancel = None
            self._free(slot)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            await frames.aclose()
            holding.release()
        for outcome in outcomes:
            # A client that reads too slowly is not our error: the answer stays unfinished, which closes the connection.
            if isinstance(outcome, Exception) and not isinstance(outcome, TimeoutError):
                raise outcome

    async def _while_admitted(self, exchange: Exchange) -> None:
        """Return when the caller may not read the stream any more: their key is revoked, or their token has expired."""
        while True:
            await self._world.sleep(self._limits.heartbeat_seconds)
            if exchange.readmit is not None:
                try:
                    await exchange.readmit()
                except (NotAuthenticated, NotAuthorised):
                    return
                except Unavailable:
                    # Who asks cannot be found out now: the stream goes on until it can.
                    log.warning("Nobody can tell now who reads the stream %s", exchange.path)

    async def _end(self, exchange: Exchange, pump: "asyncio.Task[None]") -> None:
        if not pump.done():
            pump.cancel()
            await asyncio.wait([pump])
        if not exchange.started:
            raise _leaving()
        await self._world.within(self._limits.write_seconds, exchange.finish())

    async def _pump(self, exchange: Exchange, output: StreamOutput, unsent: list[bytes], frames: Frames) -> None:
        await output.open()
        seconds = await output.send(unsent.pop())
        try:
            while True:
                piece = await frames.asend(seconds)
                seconds = await output.send(piece)
                del piece
        except StopAsyncIteration:
            return
        except TwofoldError as error:
            if is_bug(error):
                log.exception("The stream %s ended", exchange.path)
            await output.send(frame("problem", problem_of(error, exchange.root)))

    def _take(self, client: str) -> str:
        if self.draining.is_set():
            raise _leaving()
        if self.open >= self._limits.streams:
            raise Unavailable("Too many streams are open. Try again later, or ask without a stream.")
        if self._clients.get(client, 0) >= self._limits.streams_per_client:
            raise Unavailable("Too many streams are open from your address. Close some, or ask without a stream.")
        self.open += 1
        self._clients[client] = self._clients.get(client, 0) + 1
        return client

    def _free(self, client: str) -> None:
        self.open -= 1
        left = self._clients[client] - 1
        if left:
            self._clients[client] = left
        else:
            del self._clients[client]


def _leaving() -> Unavailable:
    return Unavailable("This process is about to stop. Send the request again.")


async def once_a_second(world: World, event: str, read: Any) -> Frames:
    """The result of `read` as frames: now, and again every second."""
    while True:
        yield frame(event, await read())
        await world.sleep(1.0)

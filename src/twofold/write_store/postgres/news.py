"""News that a log in PostgreSQL has grown: notifications are hints, reading the head is what counts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from twofold.domain.events import Position
from twofold.errors import TwofoldError
from twofold.postgres_server import LOST, Connection, PostgresAddress, connect
from twofold.signal import Signal
from twofold.world import World
from twofold.write_store.postgres.batch import Known

log = logging.getLogger(__name__)

_SHORTEST_POLL = 0.005
_LONGEST_POLL = 0.2
_NOTIFY_EVERY = 0.02
_LISTEN_AGAIN = 1.0


class News:
    """Wakes callers that wait for events beyond a position.

    While a caller waits, one task reads the head: at once after a notification, else after 5 ms and then with
    increasing pauses of up to 200 ms. So a lost notification costs at most 200 ms. What this process writes itself is
    known without reading.
    """

    def __init__(self, address: PostgresAddress, world: World, read_head: Callable[[], Awaitable[Known]]) -> None:
        self.known = Known(0, b"")
        self._address = address
        self._world = world
        self._read_head = read_head
        self._moved = Signal()
        self._hint = asyncio.Event()
        self._waiting = 0
        self._polling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._notifying: asyncio.Task[None] | None = None
        self._unsent = False
        self._closed = False

    @property
    def head(self) -> Position:
        """The last position that is known."""
        return self.known.position

    def observe(self, known: Known) -> None:
        """The head is at least at this position."""
        if known.position > self.head:
            self.known = known
            self._moved.fire()

    async def wait(self, after: Position, timeout: float) -> None:
        """Return once the head is known to be beyond `after`, at the latest after `timeout` seconds."""
        deadline = self._world.monotonic() + timeout
        self._waiting += 1
        try:
            self._start()
            while self.head <= after:
                left = deadline - self._world.monotonic()
                if left <= 0:
                    return
                await self._world.poll(self._moved.next, left)
        finally:
            self._waiting -= 1

    def wrote(self, notify: Callable[[], Awaitable[object]]) -> None:
        """Notify other processes soon: one notification for all that is written within 20 ms."""
        self._unsent = True
        if self._notifying is None or self._notifying.done():
            self._notifying = asyncio.create_task(self._notify(notify), name="twofold-postgres-notify")

    async def close(self) -> None:
        """Stop reading and listening. Callers that wait return after their own timeout."""
        self._closed = True
        tasks = [task for task in (self._polling, self._listening, self._notifying) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self) -> None:
        if self._closed:
            return
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll(), name="twofold-postgres-poll")
        if self._listening is None and not self._address.pgbouncer:
            self._listening = asyncio.create_task(self._listen(), name="twofold-postgres-listen")

    async def _poll(self) -> None:
        pause = _SHORTEST_POLL
        while self._waiting:
            self._hint.clear()
            before = self.head
            try:
                self.observe(await self._read_head())
            except (*LOST, asyncpg.PostgresError, TwofoldError) as error:
                # Callers that wait will read and get the error. Here it only means to try again.
                log.debug("The head cannot be read at present: %s", error)
            pause = _SHORTEST_POLL if self.head > before else min(2 * pause, _LONGEST_POLL)
            await self._world.poll(self._hint, pause)

    async def _listen(self) -> None:
        while True:
            try:
                connection = await connect(self._address, 10.0)
                try:
                    await self._receive(connection)
                finally:
                    connection.terminate()
            except (*LOST, asyncpg.PostgresError) as error:
                log.info("Notifications do not arrive at present (%s); the head is polled instead", error)
            await self._world.sleep(_LISTEN_AGAIN)

    async def _receive(self, connection: Connection) -> None:
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        await connection.add_listener(channel(self._address), self._notified)
        await gone.wait()

    def _notified(self, *_: Any) -> None:
        self._hint.set()

    async def _notify(self, notify: Callable[[], Awaitable[object]]) -> None:
        while self._unsent:
            self._unsent = False
            try:
                await notify()
            except (*LOST, asyncpg.PostgresError) as error:
                log.debug("A notification was not sent: %s", error)
            await self._world.sleep(_NOTIFY_EVERY)


def channel(address: PostgresAddress) -> str:
    """The channel of a log's notifications."""
    return f"twofold_{address.schema}"[:63]

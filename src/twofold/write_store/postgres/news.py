"""In charge of hearing that the log has grown: by notification as a hint, by looking as the truth."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from twofold.domain.events import Position
from twofold.errors import TwofoldError
from twofold.postgres_server import LOST, Connection, PostgresAddress, connect
from twofold.world import World

log = logging.getLogger(__name__)

_SHORTEST_POLL = 0.005
_LONGEST_POLL = 0.2
_NOTIFY_EVERY = 0.02
_LISTEN_AGAIN = 1.0


class News:
    """Wakes who waits for events beyond a position.

    While anybody waits, one task looks at the head: at once when a notification comes, else after 5 ms, then ever
    rarer, every 200 ms at last. A notification that is lost, or a server connection on which none arrive, costs no more
    than that. What this process writes itself is known without looking.
    """

    def __init__(self, address: PostgresAddress, world: World, look: Callable[[], Awaitable[Position]]) -> None:
        self.head: Position = 0
        self._address = address
        self._world = world
        self._look = look
        self._moved = asyncio.Event()
        self._hint = asyncio.Event()
        self._waiting = 0
        self._polling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._notifying: asyncio.Task[None] | None = None
        self._untold = False
        self._closed = False

    def seen(self, head: Position) -> None:
        """The head is at least there."""
        if head > self.head:
            self.head = head
            self._moved.set()
            self._moved = asyncio.Event()

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
                try:
                    await self._world.within(left, self._moved.wait())
                except TimeoutError:
                    return
        finally:
            self._waiting -= 1

    def wrote(self, notify: Callable[[], Awaitable[object]]) -> None:
        """Tell other processes, soon: one notification for all that is written within 20 ms."""
        self._untold = True
        if self._notifying is None or self._notifying.done():
            self._notifying = asyncio.create_task(self._notify(notify), name="twofold-postgres-notify")

    async def close(self) -> None:
        """Stop looking and listening. Whoever waits is woken by their own timeout."""
        self._closed = True
        tasks = [each for each in (self._polling, self._listening, self._notifying) if each is not None]
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
                self.seen(await self._look())
            except (*LOST, asyncpg.PostgresError, TwofoldError) as error:
                # Who waits will read, and be told: here it only means to look again.
                log.debug("The head cannot be read at present: %s", error)
            pause = _SHORTEST_POLL if self.head > before else min(2 * pause, _LONGEST_POLL)
            try:
                await self._world.within(pause, self._hint.wait())
            except TimeoutError:
                continue

    async def _listen(self) -> None:
        while True:
            try:
                connection = await connect(self._address, 10.0)
                try:
                    await self._hear(connection)
                finally:
                    connection.terminate()
            except (*LOST, asyncpg.PostgresError) as error:
                log.info("Notifications do not come at present (%s); the log is looked at instead", error)
            await self._world.sleep(_LISTEN_AGAIN)

    async def _hear(self, connection: Connection) -> None:
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        await connection.add_listener(channel(self._address), self._notified)
        await gone.wait()

    def _notified(self, *_: Any) -> None:
        self._hint.set()

    async def _notify(self, notify: Callable[[], Awaitable[object]]) -> None:
        while self._untold:
            self._untold = False
            try:
                await notify()
            except (*LOST, asyncpg.PostgresError) as error:
                log.debug("A notification was not sent: %s", error)
            await self._world.sleep(_NOTIFY_EVERY)


def channel(address: PostgresAddress) -> str:
    """The name under which a log's news are told."""
    return f"twofold_{address.schema}"[:63]

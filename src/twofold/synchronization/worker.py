"""In charge of running one follower: read, apply, retry, park, and never skip."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Literal

from twofold.domain.events import Position
from twofold.errors import Conflict, Unavailable
from twofold.synchronization.follower import Follower
from twofold.world import World
from twofold.write_store.port import Slice, WriteStore

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 10.0
_RATE_SECONDS = 5.0
_REST = 2.0
_LONGEST_REST = 0.01

State = Literal["live", "catching-up", "retrying", "stopped"]


class Worker:
    """Drives a follower along the log. Notification is a hint, polling the truth."""

    def __init__(
        self,
        follower: Follower,
        store: WriteStore,
        world: World,
        *,
        page: int,
        poll: float,
        retries: int,
        moved: Callable[[], None],
    ) -> None:
        self.follower = follower
        self.position: Position = 0
        self.state: State = "catching-up"
        self.error: str | None = None
        self._store = store
        self._world = world
        self._page = page
        self._poll = poll
        self._retries = retries
        self._moved = moved
        self._stopping = False
        self._reopen = False
        self._task: asyncio.Task[None] | None = None
        self._done: deque[tuple[float, int]] = deque()

    async def start(self) -> None:
        """Find the checkpoint and begin. WiringError where it belongs to another log.

        What passes (another process came first, a store is away for a moment) is tried again once it runs.
        """
        try:
            self.position = await self.follower.open()
        except (Conflict, Unavailable) as error:
            self._failed("retrying", error)
            self._reopen = True
        self._task = asyncio.create_task(self._run(), name=f"twofold-{self.follower.name}")

    async def stop(self) -> None:
        """End after the page under way."""
        self._stopping = True
        try:
            if self._task is not None:
                # The worker may be waiting for news or for a pause to end; a page is saved whole or not at all.
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            await self.follower.close()

    def rate(self) -> float:
        """Events per second over the last few seconds."""
        self._forget_before(self._world.monotonic() - _RATE_SECONDS)
        return sum(count for _, count in self._done) / _RATE_SECONDS

    async def _run(self) -> None:
        failures = 0
        while not self._stopping:
            try:
                await self._step(careful=failures > self._retries)
                failures = 0
                self.error = None
            except Conflict as error:
                # Someone else moved the checkpoint: look where it is now before going on.
                self._failed("retrying", error)
                self._reopen = True
                await self._pause(1)
            except Unavailable as error:
                self._failed("retrying", error)
                await self._pause(1)
            except Exception as error:
                failures += 1
                # Careful steps that fail cannot even be parked: the follower stands still, visibly, and keeps trying.
                stuck = failures > self._retries + 1
                self._failed("stopped" if stuck else "retrying", error)
                if failures == 1 or stuck:
                    log.exception("%s failed at position %d", self.follower.name, self.position + 1)
                await self._pause(failures)

    async def _step(self, *, careful: bool) -> None:
        if self._reopen:
            self.position = await self.follower.open()
            self._reopen = False
        page = await self._store.read(self.follower.query, self.position, self._page)
        if page.upto <= self.position:
            self.state, self.error = "live", None
            await self._store.wait(self.position, self._poll)
            return
        if self.state == "live" and page.upto < page.head:
            self.state = "catching-up"
        began = self._world.monotonic()
        if careful:
            await self._one_by_one(page)
        else:
            await self.follower.apply(page, self.position)
            self._advance(page.upto, len(page.events))
        # Only now: a follower that stands still may not look alive each time it tries again.
        self.state = "live" if page.upto == page.head else "catching-up"
        # Others run on this loop too: commands first of all. A follower that is up to date rests twice as long as it
        # has worked; what is written meanwhile comes as one page, and is saved at the cost of one.
        worked = self._world.monotonic() - began
        await self._world.sleep(min(_REST * worked, _LONGEST_REST) if self.state == "live" else 0)

    async def _one_by_one(self, page: Slice) -> None:
        """Find the event that fails by taking each alone; what still fails is set aside."""
        for event in page.events:
            alone = Slice([event], event.position, page.head)
            try:
                await self.follower.apply(alone, self.position)
            except (Conflict, Unavailable):
                raise
            except Exception as error:
                log.exception("%s sets position %d aside", self.follower.name, event.position)
                await self.follower.set_aside(alone, self.position, error)
            self._advance(event.position, 1)

    def _advance(self, position: Position, events: int) -> None:
        self.position = position
        now = self._world.monotonic()
        self._forget_before(now - _RATE_SECONDS)
        self._done.append((now, events))
        self._moved()

    def _forget_before(self, moment: float) -> None:
        while self._done and self._done[0][0] < moment:
            self._done.popleft()

    def _failed(self, state: State, error: Exception) -> None:
        self.state = state
        self.error = f"{type(error).__name__}: {error}"

    async def _pause(self, failures: int) -> None:
        await self._world.sleep(min(FIRST_PAUSE * 2 ** min(failures - 1, 10), LONGEST_PAUSE))

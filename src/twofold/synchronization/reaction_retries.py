"""The parked events of a policy, and when it reacts to them again."""

import heapq
import logging
from collections.abc import Mapping
from typing import NamedTuple

from twofold.domain.events import Position
from twofold.errors import Conflict, Unavailable
from twofold.read_store.port import Parked
from twofold.retrying import delay
from twofold.synchronization.due_commands import FIRST_DELAY, LONGEST_DELAY, DueCommands
from twofold.synchronization.follower import error_text
from twofold.synchronization.policy_storage import Due, PolicyStorage, SendWith
from twofold.synchronization.reaction import Reaction
from twofold.world import World

log = logging.getLogger(__name__)


class _Retry(NamedTuple):
    """When the event parked as `key` is retried, by the monotonic clock, after so many attempts."""

    at: float
    position: Position
    key: str
    attempts: int


class ReactionRetries:
    """Reacts to parked events again: once after each start, then with growing delays while something is unavailable."""

    def __init__(self, reaction: Reaction, storage: PolicyStorage, due: DueCommands, world: World) -> None:
        self.parked: dict[str, Parked] = {}
        self._reaction = reaction
        self._storage = storage
        self._due = due
        self._world = world
        self._queue: list[_Retry] = []

    def open(self, parked: dict[str, Parked], *, retry: bool) -> None:
        """Take the events that are parked by the write store. `retry`: whether to retry them without a request."""
        self.parked = parked
        # The code, or a system outside, may have been repaired since.
        now = self._world.monotonic()
        self._queue = sorted(_Retry(now, event.position, event.key, 0) for event in parked.values()) if retry else []

    async def retry_next(self) -> float | None:
        """Retry one event, if its time has come. In how many seconds the next retry is due; None: there is none."""
        if self._queue and self._queue[0].at <= self._world.monotonic():
            retry = heapq.heappop(self._queue)
            if (parked := self.parked.get(retry.key)) is not None:
                await self._retry_or_postpone(parked, retry.attempts + 1)
        return max(0.0, self._queue[0].at - self._world.monotonic()) if self._queue else None

    async def retry(self, parked: Parked) -> str:
        """React to a parked event now, and report in a sentence what happened."""
        later = await self._react(parked)
        return later if isinstance(later, str) else await self._unpark(parked, later)

    async def _retry_or_postpone(self, parked: Parked, attempts: int) -> None:
        try:
            later = await self._react(parked)
        except (Conflict, Unavailable) as error:
            log.warning("%s: position %d is retried later: %s", self._reaction.policy, parked.position, error)
            self._postpone(parked, attempts, delay(attempts, first=FIRST_DELAY, longest=LONGEST_DELAY))
            # If the checkpoint has moved, this follower has to open again.
            await self._storage.check()
            return
        if isinstance(later, str):
            return
        try:
            await self._unpark(parked, later)
        except Unavailable:
            self._postpone(parked, attempts, 0.0)
            raise

    def _postpone(self, parked: Parked, attempts: int, seconds: float) -> None:
        at = self._world.monotonic() + seconds
        heapq.heappush(self._queue, _Retry(at, parked.position, parked.key, attempts))

    async def _react(self, parked: Parked) -> Mapping[str, Due] | str:
        """What is due later, or a sentence that says why the event stays parked."""
        later: dict[str, Due] = {}

        async def advance(sent: int, due: Mapping[str, Due], send: SendWith) -> bool:
            written = await self._storage.send_parked(parked, sent, due, send)
            if written:
                self._due.add(due)
            return written

        try:
            recorded = await self._storage.event(self._reaction.query, parked.position)
            if recorded is not None:
                await self._reaction.react_to(recorded, self._storage.sent(parked.key), later, advance)
                return later
        except (Conflict, Unavailable):
            raise
        except Exception as error:
            log.exception("%s: position %d stays parked", self._reaction.policy, parked.position)
            return f"It still fails: {error_text(error)}"
        log.warning("%s no longer takes the event at %d. It stays parked.", self._reaction.policy, parked.position)
        return "The policy no longer takes this event. It stays parked."

    async def _unpark(self, parked: Parked, later: Mapping[str, Due]) -> str:
        rows = [self._storage.insert(key, due) for key, due in later.items()]
        await self._storage.save(None, self._storage.delete(parked.key), *rows)
        self._due.add(later)
        del self.parked[parked.key]
        return "It is done."

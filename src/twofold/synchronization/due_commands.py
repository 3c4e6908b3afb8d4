"""The commands that a policy sends later: their queue, the timer that sends them, and retries of those that fail."""

import asyncio
import heapq
import logging
from collections.abc import Mapping

from twofold.errors import Conflict, Unavailable
from twofold.read_store.port import Parked
from twofold.retrying import delay
from twofold.synchronization.follower import error_text
from twofold.synchronization.policy_storage import DUE, Due, PolicyStorage
from twofold.synchronization.reaction import CommandSender
from twofold.world import World, microseconds

log = logging.getLogger(__name__)

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
"""Seconds before the first retry of what is unavailable for a policy, and at most between any two."""
_SECOND = 1_000_000
_ATTEMPTS_BEFORE_PARKED = 5
"""A due command that failed so many times is shown as parked. It is retried all the same."""


class DueCommands:
    """Sends each due command of a policy at its time. One that fails does not delay the others.

    `parked` is what could not be sent, for operators to see. In the write store it stays due.
    """

    def __init__(self, policy: str, storage: PolicyStorage, sender: CommandSender, world: World) -> None:
        self.parked: dict[str, Parked] = {}
        self._policy = policy
        self._storage = storage
        self._sender = sender
        self._world = world
        self._queue: list[tuple[int, str, Due]] = []
        self._attempts: dict[str, int] = {}
        self._skipped: set[str] = set()
        self._changed = asyncio.Event()
        self._timer: asyncio.Task[None] | None = None

    def open(self, due: Mapping[str, Due]) -> None:
        """Take the commands that are due by the write store, in place of those known before."""
        self.parked.clear()
        self._queue.clear()
        self.add(due)
        if self._timer is None:
            self._timer = asyncio.create_task(self._run(), name=f"twofold-{self._policy}-due")

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)

    def add(self, due: Mapping[str, Due]) -> None:
        """Send these commands too, each at its time."""
        for key, command in due.items():
            self._push(command.at, key, command)

    def skip(self, key: str) -> None:
        """Do not send a command: it is deleted from the write store."""
        self._remove(key)
        # A command that is being sent right now is not in the queue, and must not come back to it.
        self._skipped.add(key)

    async def retry(self, key: str) -> None:
        """Send a command now that could not be sent before."""
        due = await self._storage.due()
        self._remove(key)
        self._attempts.pop(key, None)
        if key in due:
            self.add({key: due[key]})

    def _remove(self, key: str) -> None:
        self._queue = [entry for entry in self._queue if entry[1] != key]
        heapq.heapify(self._queue)
        self.parked.pop(key, None)

    def _push(self, at: int, key: str, due: Due) -> None:
        heapq.heappush(self._queue, (at, key, due))
        self._changed.set()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            if not self._queue:
                await self._changed.wait()
                continue
            at = self._queue[0][0]
            if at > microseconds(self._world.now()):
                await self._world.until(at, self._changed)
            else:
                await self._send_next()

    async def _send_next(self) -> None:
        # Taken off the queue before the first await: meanwhile other commands may go to the front.
        _, key, due = heapq.heappop(self._queue)
        try:
            # The row is deleted in the commit of the command: it is sent once, however often that is tried.
            if not await self._sender.send_due(due, key.removeprefix(DUE), [self._storage.delete(key)]):
                await self._delete(key)
        except (Conflict, Unavailable) as error:
            if key not in self._skipped and await self._still_due(key):
                self._send_later(key, due, error)
        except Exception as error:
            # Probably the code no longer knows the command. Its row stays, and the next start sends it again.
            log.exception("%s: the due command %s cannot be sent", self._policy, due.command)
            self._attempts.pop(key, None)
            if key not in self._skipped:
                self._park(key, error_text(error))
        else:
            self._attempts.pop(key, None)
            self.parked.pop(key, None)

    async def _still_due(self, key: str) -> bool:
        """Whether a command that could not be sent is still due. If not, another process has sent or skipped it."""
        try:
            due = await self._storage.is_due(key)
        except Unavailable:
            return True
        if not due:
            self._attempts.pop(key, None)
            self.parked.pop(key, None)
        return due

    def _send_later(self, key: str, due: Due, error: Exception) -> None:
        attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
        log.warning("%s: a due command is sent again later: %s", self._policy, error)
        if attempts >= _ATTEMPTS_BEFORE_PARKED:
            self._park(key, f"Tried {attempts} times: {error_text(error)}"[:500])
        if all(key != queued for _, queued, _ in self._queue):
            seconds = delay(attempts, first=FIRST_DELAY, longest=LONGEST_DELAY)
            self._push(microseconds(self._world.now()) + int(seconds * _SECOND), key, due)

    def _park(self, key: str, error: str) -> None:
        self.parked[key] = Parked(key, 0, error, microseconds(self._world.now()))

    async def _delete(self, key: str) -> None:
        try:
            await self._storage.append(self._storage.delete(key))
        except Conflict:
            log.info("%s: %s was sent before", self._policy, key)

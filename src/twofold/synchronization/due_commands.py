"""The commands that a policy sends later: the timer that sends them, many at once, and retries of those that fail."""

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from twofold.errors import Conflict, Unavailable
from twofold.read_store.port import Parked
from twofold.retrying import delay
from twofold.synchronization.due_queue import DueEntry, DueQueue
from twofold.synchronization.follower import error_text
from twofold.synchronization.policy_rows import DUE, Due
from twofold.synchronization.policy_saver import PolicySaver
from twofold.synchronization.policy_storage import PolicyStorage
from twofold.synchronization.reaction import CommandSender
from twofold.world import World, microseconds

log = logging.getLogger(__name__)

FIRST_DELAY = 1.0
LONGEST_DELAY = 60.0
"""Seconds before the first retry of what is unavailable for a policy, and at most between any two."""
_SECOND = 1_000_000
_CLOCK_MAY_BE_SET = 30.0
"""Seconds after which the wall clock is read again: it may have been set, or the machine may have slept."""
_ATTEMPTS_BEFORE_PARKED = 5
"""A due command that failed so many times is shown as parked. It is retried all the same."""


class DueCommands:
    """Sends each due command of a policy at its time, at most `most` at the same time.

    One that fails delays only the later ones of its key. `parked` is what could not be sent, for operators to see. In
    the write store it stays due.
    """

    def __init__(
        self,
        storage: PolicyStorage,
        queue: DueQueue,
        saver: PolicySaver,
        sender: CommandSender,
        world: World,
        most: int,
    ) -> None:
        self.parked: dict[str, Parked] = {}
        self.error: str | None = None
        """Why nothing is sent; None if that works."""
        self.queue = queue
        self._policy = sender.policy
        self._storage = storage
        self._saver = saver
        self._sender = sender
        self._world = world
        self._most = most
        self._attempts: dict[str, int] = {}
        self._skipped: set[str] = set()
        self._unsent: dict[str, DueEntry] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Task[None] | None = None

    def open(self, due: Mapping[str, Due]) -> None:
        """Take the commands that are due by the write store, in place of those known before."""
        self.parked.clear()
        self._unsent.clear()
        self.error = None
        self.queue.clear()
        self.queue.add(due)
        if self._timer is None:
            self._timer = asyncio.create_task(self._run(), name=f"twofold-{self._policy}-due")

    async def close(self) -> None:
        tasks = [*self._sending, *([] if self._timer is None else [self._timer])]
        self._timer = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def skip(self, key: str) -> None:
        """Do not send a command: it is deleted from the write store."""
        entry = self.queue.remove(key) or self._unsent.pop(key, None)
        self.parked.pop(key, None)
        # A command that is being sent right now is not in the queue, and must not come back to it.
        self._skipped.add(key)
        if entry is not None:
            self.queue.done(entry)

    async def retry(self, key: str) -> None:
        """Send a command now that could not be sent before."""
        due = await self._storage.due()
        entry = self.queue.remove(key) or self._unsent.pop(key, None)
        self.parked.pop(key, None)
        self._attempts.pop(key, None)
        if key in due:
            self.queue.add({key: due[key]})
        elif entry is not None:
            # It was sent or skipped meanwhile. The later ones of its key wait for nothing else.
            self.queue.done(entry)

    async def _run(self) -> None:
        """Send what is due, for ever."""
        failures = 0
        while True:
            try:
                self.queue.changed.clear()
                at = self._begin()
                self.error = None
                await self._wait(at)
                failures = 0
            except Exception as error:
                failures += 1
                self.error = f"Commands that are due are not sent: {error_text(error)}"
                log.error("%s: commands that are due are not sent", self._policy, exc_info=error)
                await self._world.sleep(delay(failures, first=FIRST_DELAY, longest=LONGEST_DELAY))

    def _begin(self) -> int | None:
        """Begin to send what is due, as far as there is room. When the next one may begin; None if that is unknown."""
        now = microseconds(self._world.now())
        while len(self._sending) < self._most:
            at = self.queue.first_at
            if at is None or at > now:
                return at
            entry = self.queue.pop()
            if entry is not None:
                # Begun in order of time. What waits for the same commit is written in the order in which it came.
                task = asyncio.create_task(self._send(entry), name=f"twofold-{self._policy}-send")
                self._sending.add(task)
                task.add_done_callback(partial(self._ended, entry))
        return None

    async def _wait(self, at: int | None) -> None:
        """Wait until `at`, or until something has changed."""
        if at is None:
            await self.queue.changed.wait()
        else:
            await self._world.poll(self.queue.changed, _CLOCK_MAY_BE_SET, until=at)

    def _ended(self, entry: DueEntry, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        self.queue.changed.set()
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            log.error("%s: a due command could not be dealt with", self._policy, exc_info=error)
            self._send_later(entry, error)

    async def _send(self, entry: DueEntry) -> None:
        _, key, due = entry
        try:
            # The row is deleted in the commit of the command: it is sent once, however often that is tried.
            command_id = key.removeprefix(DUE)
            rejection = await self._sender.send_due(due, command_id, [self._storage.delete_due(key)])
            if rejection is not None:
                self._saver.reject_due(key, self._sender.rejected(command_id, due.command, due.position, rejection))
        except (Conflict, Unavailable) as error:
            if key in self._skipped or not await self._still_due(key):
                self.queue.done(entry)
            else:
                self._send_later(entry, error)
        except Exception as error:
            # Probably the code no longer knows the command. Its row stays, and the next start sends it again.
            log.exception("%s: the due command %s cannot be sent", self._policy, due.command)
            self._attempts.pop(key, None)
            if key in self._skipped:
                self.queue.done(entry)
            else:
                self._unsent[key] = entry
                self._park(entry, error_text(error))
        else:
            self._attempts.pop(key, None)
            self.parked.pop(key, None)
            self.queue.done(entry)

    async def _still_due(self, key: str) -> bool:
        """Whether a command that could not be sent is still due. If not, another process has sent or skipped it."""
        try:
            due = await self._storage.is_due(key)
        except Exception as error:  # noqa: BLE001 - noted, and the command is sent again later
            log.warning("%s: whether a command is still due cannot be read: %s", self._policy, error_text(error))
            return True
        if not due:
            self._attempts.pop(key, None)
            self.parked.pop(key, None)
        return due

    def _send_later(self, entry: DueEntry, error: Exception) -> None:
        key = entry.key
        attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
        log.warning("%s: a due command is sent again later: %s", self._policy, error)
        if attempts >= _ATTEMPTS_BEFORE_PARKED:
            self._park(entry, f"Tried {attempts} times: {error_text(error)}"[:500])
        if key not in self.queue.keys:
            seconds = delay(attempts, first=FIRST_DELAY, longest=LONGEST_DELAY)
            self.queue.push(microseconds(self._world.now()) + int(seconds * _SECOND), key, entry.due)

    def _park(self, entry: DueEntry, error: str) -> None:
        now, waiting = microseconds(self._world.now()), self.queue.waits_behind(entry.due)
        self.parked[entry.key] = Parked(entry.key, 0, error, now, waiting)

"""Saves what a policy has done: what is done while one save is under way is saved together by the next one."""

import asyncio
import logging
from collections.abc import Mapping
from typing import NamedTuple

from twofold.domain.events import Position
from twofold.errors import Unavailable
from twofold.retrying import delay
from twofold.signal import Signal
from twofold.synchronization.due_queue import DueQueue
from twofold.synchronization.event_window import EventWindow
from twofold.synchronization.policy_rows import MAX_REJECTED, Answered, Due, ParkedReaction, RejectedCommand
from twofold.synchronization.policy_storage import PolicyChanges, PolicyStorage
from twofold.world import World
from twofold.write_store.port import RowWrite

log = logging.getLogger(__name__)

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 10.0


class SkippedEvent(NamedTuple):
    """An event that a key was parked at is skipped: the key is parked as `reaction` says now, or not any more."""

    key: str
    position: Position
    reaction: ParkedReaction | None


class PolicySaver:
    """Gathers what is to be saved of a policy, and saves it. `moved` fires whenever the checkpoint has moved.

    Only one save is under way at a time: the checkpoint and the rows of parked keys have one writer.
    """

    def __init__(self, storage: PolicyStorage, queue: DueQueue, world: World, moved: Signal) -> None:
        self.window = EventWindow(0)
        self.error: str | None = None
        """Why the last save failed; None if it did not."""
        self._storage = storage
        self._queue = queue
        self._world = world
        self._moved = moved
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._parked: dict[str, ParkedReaction | None] = {}
        self._past: frozenset[Position] = frozenset()
        self._due: dict[str, Due] = {}
        self._sent: list[str] = []
        self._rejected: tuple[RejectedCommand, ...] = ()
        self._new_rejected = False

    @property
    def rejected(self) -> tuple[RejectedCommand, ...]:
        """The commands that were rejected, the oldest first."""
        return self._rejected

    def open(self, position: Position, rejected: tuple[RejectedCommand, ...]) -> None:
        """Begin at a checkpoint. What was not saved is dropped."""
        self.window = EventWindow(position)
        self.error = None
        self._lock = asyncio.Lock()
        # The last process may have left rows of which nothing need be known any more.
        self._changed.set()
        self._parked, self._due, self._sent = {}, {}, []
        self._past = frozenset()
        self._rejected, self._new_rejected = rejected, False

    def read(self, position: Position) -> None:
        """The log is read up to a position."""
        self.window.read(position)
        self._changed.set()

    def finish(self, position: Position, answered: Answered, later: Mapping[str, Due]) -> None:
        """An event is answered, but for what is due later."""
        self._due.update(later)
        self._list(answered.rejected)
        self.window.finish(position, saved=answered.done and not later)
        self._changed.set()

    def park(self, key: str, reaction: ParkedReaction | None, *passed: Position) -> None:
        """A key is parked as `reaction` says, or not any more. The events at `passed` wait with it, and are passed."""
        self._parked[key] = reaction
        for position in passed:
            self.window.finish(position, saved=True)
        self._changed.set()

    def go_past(self, position: Position) -> None:
        """A parked key has gone on behind the event at a position. Call it together with `park`."""
        self._past |= {position}
        self._changed.set()

    def reject_due(self, key: str, rejected: RejectedCommand) -> None:
        """A rule rejected a command that was due. It is not sent again."""
        self._sent.append(key)
        self._list((rejected,))
        self._changed.set()

    async def run(self) -> None:
        """Save what there is to save, for ever. Raises what says that this process must not go on as it is."""
        failures = 0
        while True:
            if not failures:
                await self._changed.wait()
                # What the tasks of this turn do comes along.
                await self._world.sleep(0)
            self._changed.clear()
            try:
                await self.save()
            except Unavailable as error:
                failures += 1
                self.error = f"{type(error).__name__}: {error}"
                await self._world.sleep(delay(failures, first=_FIRST_DELAY, longest=_LONGEST_DELAY))
            else:
                failures, self.error = 0, None

    async def save(self, *rows: RowWrite, skip: SkippedEvent | None = None) -> None:
        """Save everything, and rows in the same commit, and that an event is skipped.

        Conflict if one of the rows is not as expected: then nothing is saved.
        """
        async with self._lock:
            window, parked = self.window, dict(self._parked)
            skipped = set[Position]() if skip is None or skip.position <= window.done else {skip.position}
            changes = PolicyChanges(
                position=window.done,
                done=window.to_save() | skipped,
                parked=parked | ({} if skip is None else {skip.key: skip.reaction}),
                past=self._past if skip is None else self._past | {skip.position},
                due=dict(self._due),
                sent=tuple(self._sent),
                rejected=self._rejected if self._new_rejected else None,
            )
            nothing = changes == PolicyChanges(position=self._storage.position)
            if not rows and nothing and not self._storage.over(changes):
                return
            before = self._storage.position
            await self._storage.save(changes, *rows)
            window.saved(frozenset(changes.done))
            # What has changed meanwhile stays for the next save.
            self._parked = {key: now for key, now in self._parked.items() if now is not parked.get(key, self)}
            self._due = {key: due for key, due in self._due.items() if key not in changes.due}
            self._sent = self._sent[len(changes.sent) :]
            self._past -= changes.past
            self._new_rejected = self._new_rejected and self._rejected is not changes.rejected
            self._queue.add(changes.due)
            if changes.position > before:
                self._moved.fire()

    def _list(self, rejected: tuple[RejectedCommand, ...]) -> None:
        known = {command.command_id for command in self._rejected}
        new = tuple(command for command in rejected if command.command_id not in known)
        if new:
            self._rejected = (*self._rejected, *new)[-MAX_REJECTED:]
            self._new_rejected = True

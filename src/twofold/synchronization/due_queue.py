"""The queue of the commands that a policy sends later: those of one key one after another, in order of time."""

import asyncio
import heapq
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from twofold.synchronization.policy_rows import Due


class DueEntry(NamedTuple):
    """A command in the queue: when it is to be sent (microseconds since 1970, UTC), and its key in the write store."""

    at: int
    key: str
    due: Due


class DueQueue:
    """Commands in order of time. A command with a `key` of events waits until those before it with that key are done.

    `changed` is set whenever a command may have become the first one.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._heap: list[DueEntry] = []
        self.keys: set[str] = set()
        """Keys of the commands that wait for their time or their turn. One that is being sent is not among them."""
        self._busy: dict[str, str] = {}
        self._waiting: dict[str, deque[DueEntry]] = {}

    def clear(self) -> None:
        """Forget all commands."""
        self._heap.clear()
        self.keys.clear()
        self._busy.clear()
        self._waiting.clear()

    def add(self, due: Mapping[str, Due]) -> None:
        """Add commands, each at its time."""
        for key, command in due.items():
            self.push(command.at, key, command)

    def push(self, at: int, key: str, due: Due) -> None:
        """Add a command that is to be sent at `at` (microseconds since 1970, UTC), whatever the command itself says."""
        self.keys.add(key)
        heapq.heappush(self._heap, DueEntry(at, key, due))
        self.changed.set()

    @property
    def first_at(self) -> int | None:
        """When the first command is to be sent. None if there is none."""
        return self._heap[0].at if self._heap else None

    def pop(self) -> DueEntry | None:
        """Take the first command. None if it waits for an earlier one of its key: then it comes again after that."""
        entry = heapq.heappop(self._heap)
        events_key = entry.due.key
        if events_key:
            first = self._busy.setdefault(events_key, entry.key)
            if first != entry.key:
                self._waiting.setdefault(events_key, deque()).append(entry)
                return None
        self.keys.discard(entry.key)
        return entry

    def done(self, entry: DueEntry) -> None:
        """Let the next command of the same key come: this one is sent, or not to be sent."""
        events_key = entry.due.key
        if self._busy.get(events_key) != entry.key:
            return
        del self._busy[events_key]
        waiting = self._waiting.pop(events_key, None)
        if waiting:
            following = waiting.popleft()
            # It is the first of its key again when it is popped: the others stay behind it.
            self._busy[events_key] = following.key
            if waiting:
                self._waiting[events_key] = waiting
            self.push(*following)

    def waits_behind(self, due: Due) -> int:
        """How many commands wait behind one of this key."""
        return len(self._waiting.get(due.key, ()))

    def remove(self, key: str) -> DueEntry | None:
        """Take a command out, wherever it is. None if it is not there."""
        self.keys.discard(key)
        found = next((entry for entry in self._heap if entry.key == key), None)
        if found is not None:
            self._heap.remove(found)
            heapq.heapify(self._heap)
            return found
        for waiting in self._waiting.values():
            for entry in waiting:
                if entry.key == key:
                    waiting.remove(entry)
                    return entry
        return None

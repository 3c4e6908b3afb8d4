"""In charge of what every write store promises. `twofold.testing.write_store_contract` proves it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

import msgspec

from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Metadata, NewEvent, Position, RecordedEvent
from twofold.errors import CommandIdReused, Conflict


class RowWrite(msgspec.Struct, frozen=True, gc=False):
    """A row of data to be kept with the log, written only if its present version is `expected` (0: not there yet).

    `value` None deletes it. `version` is the one it gets, above 0; None: one more than `expected`. Rows are how a
    follower keeps its checkpoint together with the events that follow from it.
    """

    space: str
    key: str
    value: bytes | None
    expected: int
    version: int | None = None

    @property
    def next(self) -> int:
        """The version the row has once it is written."""
        return self.expected + 1 if self.version is None else self.version


class RowGuard(msgspec.Struct, frozen=True, gc=False):
    """A row whose present version must be `expected` (0: not there) for an append to hold. It stays as it is."""

    space: str
    key: str
    expected: int


class LogRow(msgspec.Struct, frozen=True):
    """A stored row and its version, which counts up from 1 with each write, unless the write says otherwise."""

    value: bytes
    version: int


class Append(msgspec.Struct, frozen=True, gc=False):
    """What one command wants written, all or nothing: events, rows, and the command id itself.

    Without `command_id` (a follower's book-keeping) nothing is remembered for repeats.
    """

    metadata: Metadata
    events: tuple[NewEvent, ...] = ()
    conditions: tuple[AppendCondition, ...] = ()
    command_id: str | None = None
    request_hash: bytes = b""
    rows: tuple[RowWrite, ...] = ()
    guards: tuple[RowGuard, ...] = ()


class Appended(msgspec.Struct, frozen=True, gc=False):
    """What was written: `count` events, the last of them at `position` (the head, where there were none)."""

    position: Position
    count: int
    repeated: bool = False


Outcome = Appended | Conflict | CommandIdReused
"""What became of one append of a batch. The errors are answers here, to be raised to the one caller concerned."""


class Slice(msgspec.Struct, frozen=True):
    """Events in order of position, from one snapshot.

    `upto` is the position up to which nothing is missing: the head, or the last event's where `limit` cut it off.
    """

    events: list[RecordedEvent]
    upto: Position
    head: Position


class LogIdentity(msgspec.Struct, frozen=True):
    """Which history a position belongs to. `epoch` rises when the history behind it may have changed (a fail-over).

    `forks` tells for each epoch after the first where it began: up to that position it shares the history before.
    """

    log: str
    epoch: int
    forks: tuple[tuple[int, Position], ...] = ()

    @property
    def stamp(self) -> str:
        """Log and epoch as one text, to be kept with a position."""
        return f"{self.log}.{self.epoch}"

    def holds(self, stamp: str, position: Position) -> bool:
        """Whether a position that was noted under `stamp` is one of this history."""
        log, _, epoch = stamp.rpartition(".")
        if log != self.log or not (epoch.isascii() and epoch.isdecimal()) or int(epoch) > self.epoch:
            return False
        return all(position <= after for began, after in self.forks if began > int(epoch))


class WriteStore(Protocol):
    """The log. Positions are 1, 2, 3, … in commit order; a reader that has seen p has seen all before p.

    All methods raise Unavailable where the store cannot be reached or has stopped itself after a disk error.
    """

    identity: LogIdentity
    problem: str | None
    """Why nothing can be appended any more, in a sentence; None while all is well."""
    exclusive: bool
    """Whether only this process can write to the log: then whoever else seems to hold a lease is gone."""

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        """Write a batch, in one durable transaction unless the store has to cut it; outcomes in the same order.

        Each append is checked as if those before it in the batch were already there: first its command id (a repeat is
        answered with the first outcome, `repeated`; another request hash with CommandIdReused), then conditions and row
        guards (Conflict). When this returns, what is Appended has been synced to disk.
        """
        ...

    async def read(self, query: EventQuery, after: Position = 0, limit: int | None = None) -> Slice:
        """The events matching `query` after a position, and the head, from one snapshot."""
        ...

    async def newer(
        self, conditions: Sequence[AppendCondition], command_id: str | None = None, limit: int | None = None
    ) -> tuple[Slice, Appended | None]:
        """In one snapshot: the events that would break any of `conditions`, and what `command_id` came to before."""
        ...

    async def rows(
        self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
    ) -> Mapping[str, LogRow]:
        """The rows of one space by key, from one snapshot: all of them, or those of `keys` that are there.

        At most `limit`, whichever they are.
        """
        ...

    async def wait(self, after: Position, timeout: float) -> None:
        """Return once the head may be beyond `after`, at the latest after `timeout` seconds. A hint: read to know."""
        ...

    async def close(self) -> None:
        """Give back files and connections. Appends under way finish first."""
        ...


@runtime_checkable
class Reindexable(Protocol):
    """A write store whose events can be given tags later. `twofold reindex` needs one; the write path does not."""

    async def retag(self, tags: Mapping[Position, Sequence[str]]) -> None:
        """Add tags to stored events, which are found by them from then on. One durable transaction; safe to repeat.

        Tags are never taken away. LookupError, and nothing changed, where there is no event at a position.
        """
        ...


class RememberedCommand(msgspec.Struct, frozen=True):
    """What is remembered of a command id. `recorded_at` is in microseconds since 1970, UTC."""

    command_id: str
    request_hash: bytes
    position: Position
    count: int
    recorded_at: int


class LogContent(Protocol):
    """Everything a log holds, page by page."""

    async def events(self, after: Position, limit: int) -> Sequence[RecordedEvent]:
        """Events after a position, in order."""
        ...

    async def commands(self, after: str, limit: int) -> Sequence[RememberedCommand]:
        """Remembered command ids after one, in the order of their bytes."""
        ...

    async def spaces(self) -> Sequence[str]:
        """The spaces that have rows, in order."""
        ...

    async def rows(self, space: str, after: str | None, limit: int) -> Mapping[str, LogRow]:
        """Rows of one space behind a key, in the order of their bytes; from the first one where that is None."""
        ...


class EmptyLog(LogContent, Protocol):
    """A log on its way from elsewhere, there once its context ends without error. Until then it reads as it will be."""

    async def add_events(self, events: Sequence[RecordedEvent]) -> None:
        """Write events at the positions they have: the next ones."""
        ...

    async def add_commands(self, commands: Sequence[RememberedCommand]) -> None:
        """Remember commands."""
        ...

    async def add_rows(self, space: str, rows: Mapping[str, LogRow]) -> None:
        """Write rows, with the versions they have."""
        ...


@runtime_checkable
class Movable(Protocol):
    """A write store whose log can be moved to another one. `twofold move` needs two."""

    identity: LogIdentity

    def content(self) -> AbstractAsyncContextManager[LogContent]:
        """All that the log holds, for as long as the context lasts."""
        ...

    def importing(self, identity: LogIdentity, head: Position) -> AbstractAsyncContextManager[EmptyLog]:
        """Take over a log under its identity, up to `head`, all or nothing. Open the store anew afterwards.

        WiringError where this store holds anything yet.
        """
        ...

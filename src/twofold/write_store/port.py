"""What every write store promises. `twofold.testing.write_store_contract` proves it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import NewEvent, Position, RecordedEvent
from twofold.errors import CommandIdReused, Conflict
from twofold.write_store.chain import chain_digest
from twofold.write_store.damage import KnownDamage
from twofold.write_store.verification import (
    ChecksumTotals,
    CommandRow,
    HeadRow,
    RawEvent,
    RowOfLog,
    StateRow,
    TagEntry,
)

PAGE_BYTES = 4_194_304
"""Bytes of events at which a page ends, unless a reader wants less: what a reader holds in memory, times a few."""


class RowWrite(msgspec.Struct, frozen=True, gc=False):
    """A row of data to write beside the events, only if its present version is `expected` (0: there is no such row).

    `value` None deletes the row. `version` is its new version, above 0; None: one more than `expected`. A follower
    writes its checkpoint as a row, together with the events that follow from it.
    """

    space: str
    key: str
    value: bytes | None
    expected: int
    version: int | None = None

    @property
    def next(self) -> int:
        """The version of the row after the write."""
        return self.expected + 1 if self.version is None else self.version


class RowGuard(msgspec.Struct, frozen=True, gc=False):
    """A row whose present version must be `expected` (0: there is no such row) for an append. It is not changed."""

    space: str
    key: str
    expected: int


class LogRow(msgspec.Struct, frozen=True):
    """A stored row and its version, which counts up from 1 with each write, unless the write says otherwise."""

    value: bytes
    version: int


class Append(msgspec.Struct, frozen=True, gc=False):
    """What one command writes, all or nothing: events, rows, and the command id itself.

    Without `command_id` (a follower's checkpoint) a repeat is not recognised.

    `rests_on`: the places (from 0) of appends before it in the batch that it was decided on: it is written only if all
    of them are. It has then seen what all appends before it in the batch write, and its conditions are about the log
    before the batch. None: it was decided without them.
    """

    metadata: Metadata
    events: tuple[NewEvent, ...] = ()
    conditions: tuple[AppendCondition, ...] = ()
    command_id: str | None = None
    request_hash: bytes = b""
    rows: tuple[RowWrite, ...] = ()
    guards: tuple[RowGuard, ...] = ()
    rests_on: tuple[int, ...] | None = None


class Appended(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What was written: `count` events, the last of them at `position` (the head if there were none).

    `chain` is the chain of the log at `position`. It is not compared: the same append has another one in another log.
    """

    position: Position
    count: int
    repeated: bool = False
    chain: bytes = b""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Appended) and self._compared() == other._compared()

    def __ne__(self, other: object) -> bool:
        # The one that Struct defines would compare identities.
        return not self == other

    def __hash__(self) -> int:
        return hash(self._compared())

    @property
    def digest(self) -> str:
        """The digest of the chain at `position`."""
        return chain_digest(self.chain)

    def _compared(self) -> tuple[Position, int, bool]:
        return self.position, self.count, self.repeated


Outcome = Appended | Conflict | CommandIdReused
"""The outcome of one append of a batch. The errors are values here, to be raised to the caller of that append."""


def is_written(outcome: Outcome) -> bool:
    """Whether an append was written by this call: not refused, and not a repeat."""
    return isinstance(outcome, Appended) and not outcome.repeated


class Slice(msgspec.Struct, frozen=True):
    """Events in order of position, from one snapshot.

    `upto` is the position up to which no event is missing: the head, or the last event's where the page was full.
    `chain` is the chain of the log at `upto`.
    """

    events: list[RecordedEvent]
    upto: Position
    head: Position
    chain: bytes

    @property
    def digest(self) -> str:
        """The digest of the chain at `upto`."""
        return chain_digest(self.chain)


class LogIdentity(msgspec.Struct, frozen=True):
    """Which history a position belongs to. `epoch` rises when the history may have changed (after a fail-over).

    `forks` has, for each epoch after the first, the position after which it began: up to there it shares the history
    before.
    """

    log: str
    epoch: int
    forks: tuple[tuple[int, Position], ...] = ()

    def stamp(self, digest: str) -> str:
        """What to store with a position: log, epoch, and the digest of the chain at that position, as one text."""
        return f"{self.log}.{self.epoch}.{digest}"

    def holds(self, stamp: str, position: Position) -> bool:
        """Whether a position stored with `stamp` can be of this history, by log and epoch. See also `history.py`."""
        stored = StampParts.of(stamp)
        if stored is None or stored.log != self.log or stored.epoch > self.epoch:
            return False
        return all(position <= after for began, after in self.forks if began > stored.epoch)


class StampParts(NamedTuple):
    """The parts of a stamp."""

    log: str
    epoch: int
    digest: str

    @classmethod
    def of(cls, stamp: str) -> "StampParts | None":
        """The parts; None where this is not a stamp."""
        rest, _, digest = stamp.rpartition(".")
        log, _, epoch = rest.rpartition(".")
        if not log or not (epoch.isascii() and epoch.isdecimal()):
            return None
        return cls(log, int(epoch), digest)


class LogState(Protocol):
    """Which log a write store has, and whether it can be written."""

    @property
    def identity(self) -> LogIdentity:
        """Which history its positions belong to."""
        ...

    @property
    def problem(self) -> str | None:
        """Why no append is possible until a restart, in a sentence; None while appends are possible."""
        ...

    @property
    def exclusive(self) -> bool:
        """Whether only this process can write to the log. If so, leases of other processes have expired."""
        ...


class WriteStore(LogState, Protocol):
    """The log. Positions are 1, 2, 3, … in commit order; a reader that has seen p has seen all before p.

    All methods raise Unavailable where the store cannot be reached. Appends raise it where the store has a `problem`.
    """

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        """Write a batch, in one durable transaction unless the store has to split it. Outcomes are in the same order.

        Each append is checked as if those before it in the batch were already written: first its command id (a repeat
        gets the first outcome, `repeated`; another request hash gets CommandIdReused), then conditions, row guards and
        what it rests on (Conflict). When this returns, what is Appended has been synced to disk.
        """
        ...

    async def read(
        self, query: EventQuery, after: Position = 0, limit: int | None = None, size: int = PAGE_BYTES
    ) -> Slice:
        """The events that match `query` after a position, and the head, from one snapshot.

        The page ends after `limit` events, or with the event that brings their stored bytes to `size`.
        """
        ...

    async def newer(
        self, conditions: Sequence[AppendCondition], command_id: str | None = None, limit: int | None = None
    ) -> tuple[Slice, Appended | None]:
        """In one snapshot: the events that would break any of `conditions`, and the earlier outcome of `command_id`.

        The page ends after `limit` events, or with the event that brings their stored bytes to `PAGE_BYTES`.
        """
        ...

    async def rows(
        self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
    ) -> Mapping[str, LogRow]:
        """The rows of one space by key, from one snapshot: all of them, or those of `keys` that exist.

        At most `limit` rows, in no special order.
        """
        ...

    async def wait(self, after: Position, timeout: float) -> None:
        """Return when the head may be beyond `after`, at the latest after `timeout` seconds. A hint only."""
        ...

    async def close(self) -> None:
        """Release files and connections, after the appends that have begun."""
        ...


@runtime_checkable
class Reindexable(Protocol):
    """A write store whose stored events can get more tags. `twofold reindex` needs it."""

    async def retag(self, tags: Mapping[Position, Sequence[str]]) -> None:
        """Add tags to stored events, in one durable transaction. Safe to repeat.

        Tags are never removed. LookupError, and no change, where there is no event at a position.
        """
        ...


@runtime_checkable
class EpochStore(Protocol):
    """A write store that can begin a new epoch of its log: `twofold recover` needs it."""

    async def begin_epoch(self, cause: str) -> int:
        """Begin the next epoch after the head, durably; its number. Writers of an earlier epoch are refused."""
        ...


class RawLog(Protocol):
    """The rows of a log as they are stored, page by page: each page is one snapshot, beside a running writer.

    LogUnreadable where damage keeps the store from reading them. Unavailable where it cannot be reached.
    """

    async def head(self) -> HeadRow:
        """The row of the head, and what it must agree with."""
        ...

    async def events(self, after: Position, limit: int) -> Sequence[RawEvent]:
        """Events after a position, in order."""
        ...

    async def index(self, after: TagEntry | None, limit: int) -> Sequence[TagEntry]:
        """Entries of the index after one, in order; None: from the first one."""
        ...

    async def commands(self, after: str, limit: int) -> Sequence[CommandRow]:
        """Remembered commands after a command id, in order."""
        ...

    async def remembered(self, command_ids: Sequence[str]) -> Mapping[str, tuple[Position, int]]:
        """What is remembered of those of these commands that are: position and number of events."""
        ...

    async def storage(self) -> Sequence[str]:
        """What the store itself finds wrong with its files, in sentences. Reads all of them where it can."""
        ...


class RawState(Protocol):
    """What a log stores beside events and command ids, as it is stored. Errors are those of `RawLog`."""

    async def rows(self, after: tuple[str, str], limit: int) -> Sequence[RowOfLog]:
        """Rows after a space and a key, in order."""
        ...

    async def state(self) -> StateRow:
        """The epochs, and the clock of command ids."""
        ...

    async def totals(self) -> ChecksumTotals:
        """The sums of all checksums, from one snapshot. Reads all command ids and rows."""
        ...


@runtime_checkable
class Measurable(Protocol):
    """A write store that knows how large its log is."""

    async def stored_bytes(self) -> int:
        """The bytes that the log takes on disk, its indexes included. Unavailable where they cannot be read."""
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A write store whose log can be checked for damage: `twofold verify` needs it.

    `damage` is what is known to be damaged: no read serves it. `retention` is how many microseconds a command id is
    remembered.
    """

    identity: LogIdentity
    damage: KnownDamage
    retention: int

    def raw_log(self) -> RawLog:
        """The rows as they are stored."""
        ...

    def raw_state(self) -> RawState:
        """What is stored beside events and command ids."""
        ...

"""Whole logs: reading everything that one holds, and a copy that is being filled."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from twofold.domain.events import Position, RecordedEvent
from twofold.errors import WiringError
from twofold.write_store.port import LogIdentity, LogRow
from twofold.write_store.verification import Damage


class RememberedCommand(msgspec.Struct, frozen=True):
    """What is remembered of a command id. `recorded_at` is in microseconds, by the clock of command ids."""

    command_id: str
    request_hash: bytes
    position: Position
    count: int
    recorded_at: int


class LogUse(NamedTuple):
    """What a stored log is used for: "log"; "copy", that of the log at `place`, not complete; "moved", to `place`."""

    use: str
    place: str

    def refuse(self, here: str, *, read_only: bool) -> None:
        """WiringError where this is not a log to be opened, `here`. A log that was moved can still be read."""
        if self.use == "copy":
            raise WiringError(
                f"{here} is a copy that is not complete: it follows the log at {self.place}. Complete it with "
                "`twofold move`; or, where that log is lost, with `twofold move --complete`."
            )
        if self.use == "moved" and not read_only:
            raise WiringError(moved_to(here, self.place))


def moved_to(here: str, place: str) -> str:
    """What is wrong with a log that was moved, and what to do."""
    return f"The log {here} was moved to {place}. Name that place as the write store: nothing is written here any more."


class LogContent(Protocol):
    """Everything a log holds, page by page."""

    async def events(self, after: Position, limit: int) -> Sequence[RecordedEvent]:
        """Events after a position, in order: at most `limit`, and about `PAGE_BYTES` of them."""
        ...

    async def commands(self, after: str, limit: int) -> Sequence[RememberedCommand]:
        """Remembered commands after a command id, in the order of their bytes."""
        ...

    async def spaces(self) -> Sequence[str]:
        """The spaces that have rows, in order."""
        ...

    async def rows(self, space: str, after: str | None, limit: int) -> Mapping[str, LogRow]:
        """Rows of one space after a key, in the order of their bytes; None: from the first one."""
        ...


class RowVersions(Protocol):
    """The versions of the rows of a log, by which two logs are compared without reading the rows."""

    async def versions(self, space: str, after: str | None, upto: str | None, limit: int) -> Mapping[str, int]:
        """Versions by key, in the order of the bytes of the keys: at most `limit`.

        Of the keys after one (None: from the first one) up to another one (None: to the last one).
        """
        ...


class LogSnapshot(LogContent, RowVersions, Protocol):
    """Everything a log holds at one moment. Commands go on meanwhile. `schema` is the version of its schema."""

    identity: LogIdentity
    use: LogUse
    head: Position
    chain: bytes
    schema: int

    async def commands_since(self, position: Position) -> Sequence[RememberedCommand]:
        """All commands that were remembered since the head was at a position. There may be earlier ones too."""
        ...

    async def rows_of(self, space: str, keys: Sequence[str]) -> Mapping[str, LogRow]:
        """Those of these rows that exist."""
        ...


@runtime_checkable
class HasSnapshots(Protocol):
    """A write store whose log can be read as it is at one moment: backups and copies need it."""

    def snapshot(self) -> AbstractAsyncContextManager[LogSnapshot]:
        """The log at the moment at which the context begins, over a connection of its own."""
        ...


class ClosedLog(LogSnapshot, Protocol):
    """A log that no process writes to while it is read."""

    async def seal(self, place: str) -> None:
        """End this log, durably: it was moved to a place, and takes no appends from now on. A new epoch begins."""
        ...


@runtime_checkable
class Movable(HasSnapshots, Protocol):
    """A write store whose log can be moved: `twofold move` needs it."""

    def closed(self) -> AbstractAsyncContextManager[ClosedLog]:
        """The log, which takes no appends within the context. This process appends nothing meanwhile.

        If it is not sealed, appends go on when the context ends. Unavailable where another process keeps it.
        """
        ...


@runtime_checkable
class CopiesFile(Protocol):
    """A snapshot that can be copied as a file, which is much faster than event by event."""

    async def copy_to(self, path: str, on_progress: Callable[[int, int], None]) -> None:
        """Write a log file with the content of this snapshot, which no process has open. Progress counts pages."""


class SealedLog(LogSnapshot, Protocol):
    """A log file that nothing writes any more: a part of a backup. It may begin after position 0."""

    def damages(self, after: Position, chain: bytes) -> Iterator[Damage]:
        """What is wrong with the events after a position, where the log has `chain`."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class LogCopy(LogContent, RowVersions, Protocol):
    """A log that is being filled. It is no log before `complete`: no app and no command opens it.

    `place` is where the log is that it follows, `head` the last event that was copied, and `chain` the chain there.
    `settled` is the position at which commands and rows were copied as well; None where they were not, or anything was
    written since.
    """

    identity: LogIdentity
    place: str
    head: Position
    chain: bytes
    settled: Position | None

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """What is written within the context is written all or nothing. One may be within another."""
        ...

    async def add_events(self, events: Sequence[RecordedEvent]) -> None:
        """Write events at the positions they have, which are the next ones."""
        ...

    async def add_commands(self, commands: Sequence[RememberedCommand]) -> int:
        """Remember commands; how many were not yet. An id that was forgotten and used again has its last outcome."""
        ...

    async def set_rows(self, space: str, rows: Mapping[str, LogRow | None]) -> None:
        """Write rows, with the versions they have, and delete those that are None."""
        ...

    async def settle(self, identity: LogIdentity) -> None:
        """Note that commands and rows are those of the source at `head`, and which history that is."""
        ...

    async def complete(self, identity: LogIdentity) -> None:
        """Make it a log, durably, with an identity. Nothing is added after that."""
        ...


@runtime_checkable
class Replaceable(Protocol):
    """A write store whose log can be replaced in one transaction: `twofold restore --replace` needs it."""

    def replacing(self, identity: LogIdentity, expected: Position) -> AbstractAsyncContextManager[LogCopy]:
        """A copy to be filled in place of a log with the head `expected`. Conflict, unchanged, at another head.

        It is complete under the identity when the context ends without error; else nothing has changed.
        """
        ...

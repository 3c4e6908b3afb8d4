"""The main file of a log while it is in use: whether something else has overwritten it in place.

In WAL mode the main file changes only when pages are written back to it, so any other change shows in its size and its
times. Another process may have written pages back (Litestream does): then everything is still there. If the file was
overwritten (`cp old.db log.db`), it is not; SQLite itself would not notice, and answer from its cache.
"""

from typing import NamedTuple

import apsw

from twofold.domain.events import Position
from twofold.errors import TwofoldError
from twofold.sqlite_file import FileIdentity, open_connection
from twofold.sqlite_lock import FileLock
from twofold.write_store.sqlite.raw_events import chain_at, raw_events
from twofold.write_store.sqlite.reader import Catalogue, Head, LogReader
from twofold.write_store.verification import LogUnreadable, damages

_MAGIC = b"SQLite format 3\0"
_HEADER = 100
_CHANGES = slice(24, 28)
"""The counter in the header. SQLite counts it up with each version of the first page, so it never goes back."""
_AROUND = 50
_AT_OPEN = 5_000
"""Events before the head at the start. Where the process before had not written its pages back is not known."""


class _WrittenBack(NamedTuple):
    """What is known of the file: its state, the counter in its header, and the events that the last write-back ended.

    If the file is older, some of these events are missing in it: what came later is in the write-ahead log.
    """

    state: tuple[int, int, int]
    changes: bytes
    first: Position
    last: Position


class MainFile:
    """Watches the main file of the log `log_id` at a path, under the lock of its writer."""

    def __init__(self, file: FileIdentity, lock: FileLock, log_id: int, head: Position, vfs: str | None) -> None:
        self._file = file
        self._lock = lock
        self._log_id = log_id
        self._vfs = vfs
        self._known = self._present(max(1, head - _AT_OPEN), head)

    def overwritten(self, head: Head) -> str | None:
        """Why the file is not the one that this process writes, whose head is `head`; None where it is.

        Costs nothing unless something has changed the file since. To be asked after `FileIdentity.lost`.
        """
        if self._file.state == self._known.state:
            return None
        present = self._present(self._known.first, self._known.last)
        if problem := self._problem(present, head):
            return problem
        self._known = present
        return None

    def written_back(self, head: Head) -> str | None:
        """The same after pages were written back: something else may have changed the file in that moment."""
        if self._file.lost:
            return None
        present = self._present(self._known.first, self._known.last)
        if present == self._known:
            return None
        if problem := self._problem(present, head):
            return problem
        self._known = present._replace(first=max(1, head.position - _AROUND), last=head.position)
        return None

    def _present(self, first: Position, last: Position) -> _WrittenBack:
        if self._file.lost:
            return _WrittenBack((0, 0, 0), b"", first, last)
        # The state first: what changes after it is noticed the next time.
        state, header = self._file.state, self._lock.beginning(_HEADER)
        changes = header[_CHANGES] if header.startswith(_MAGIC) else b""
        return _WrittenBack(state, changes, first, last)

    def _problem(self, present: _WrittenBack, head: Head) -> str | None:
        if present.changes < self._known.changes:
            return "its header is older, or missing"
        try:
            # A new connection, which has nothing in its cache.
            connection = open_connection(self._file.path, readonly=True, vfs=self._vfs)
        except TwofoldError as error:
            return str(error)
        try:
            stored = LogReader(connection, self._log_id, Catalogue()).stored_head()
            if stored != head:
                return f"its head is {stored.position} instead of {head.position}"
            after, last = present.first - 1, min(present.last, head.position)
            found = raw_events(connection, self._log_id, after, last - after)
            before = chain_at(connection, self._log_id, after)
            return next((damage.message for damage in damages(found, after, before, last)), None)
        except (apsw.Error, LogUnreadable, LookupError, UnicodeDecodeError) as error:
            return f"it cannot be read: {error}"
        finally:
            connection.close()

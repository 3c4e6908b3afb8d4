"""The log in one SQLite file: durable, one writer, any number of readers beside it."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeVar

import apsw

from twofold.domain.event_query import AppendCondition, EventQuery
from twofold.domain.events import Position
from twofold.errors import ForkedHistory, Unavailable, WiringError
from twofold.signal import Signal
from twofold.sqlite_file import (
    DiskErrors,
    FileIdentity,
    open_connection,
    refuse_network_file_system,
    refuse_old_sqlite,
)
from twofold.sqlite_lock import FileLock
from twofold.world import RealWorld, World
from twofold.write_store.command_clock import CommandClock
from twofold.write_store.damage import KnownDamage, unlinked
from twofold.write_store.log_content import ClosedLog, LogSnapshot, moved_to
from twofold.write_store.migration import new_log_name
from twofold.write_store.port import (
    PAGE_BYTES,
    Append,
    Appended,
    LogIdentity,
    LogRow,
    Outcome,
    Slice,
)
from twofold.write_store.sqlite.content import identity_of, use_of
from twofold.write_store.sqlite.main_file import MainFile
from twofold.write_store.sqlite.migrate import apply_migrations, refuse_old_schema
from twofold.write_store.sqlite.raw_events import SqliteRawLog, chain_at, raw_events
from twofold.write_store.sqlite.raw_state import SqliteRawState
from twofold.write_store.sqlite.reader import Catalogue, LogReader
from twofold.write_store.sqlite.snapshot import closed_log, reading_snapshot
from twofold.write_store.sqlite.writer import LogWriter
from twofold.write_store.verification import LogUnreadable, damages, head_damages

T = TypeVar("T")

DAY = 86_400_000_000
_PRAGMAS = (
    "synchronous = full",
    "fullfsync = on",
    "checkpoint_fullfsync = on",
    "secure_delete = on",
    "cache_size = -65536",
    "wal_autocheckpoint = 0",
)
_TAIL_CHECKED = 1_000
_READER_POLL = 0.05
_FILE_CHECK = 1.0
"""Seconds between two checks of both files. The main file is also checked before each commit."""


class SqliteWriteStore:
    """A write store in one file. Commits run on the caller's event loop: there a commit costs what its sync costs.

    An append is answered after `synchronous=FULL` has put it on disk. After a disk error, or when the file is deleted
    or replaced, the store refuses appends until the process starts again and has checked the end of the log; reads go
    on. A full disk refuses appends until there is room. `read_only` opens the log beside a running writer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        log: str = "main",
        read_only: bool = False,
        retention_days: float = 7.0,
        world: World | None = None,
        vfs: str | None = None,
        check_reads: bool = False,
    ) -> None:
        self.problem: str | None = None
        self.exclusive = True
        self.damage = KnownDamage()
        self.retention = int(retention_days * DAY)
        self._check_reads = check_reads
        self._path = os.path.abspath(path)
        self._log = log
        self._world: World = world or RealWorld()
        self._news = Signal()
        self._catalogue = Catalogue()
        self._lock: FileLock | None = None
        self._writer: LogWriter | None = None
        self._main_file: MainFile | None = None
        self._overwritten: str | None = None
        refuse_old_sqlite()
        refuse_network_file_system(path)
        with DiskErrors(path):
            if not read_only:
                self._lock = FileLock(path)
            try:
                log_id = self._open(log, vfs)
            except BaseException:
                self._release()
                raise
        self._log_id = log_id
        self._reader = LogReader(self._read_connection, log_id, self._catalogue)

    def _open(self, log: str, vfs: str | None) -> int:
        self._write_connection = None
        if self._lock is not None:
            self._write_connection = open_connection(self._path, vfs=vfs)
            for pragma in _PRAGMAS:
                self._write_connection.execute(f"pragma {pragma}").fetchall()
            apply_migrations(self._write_connection, self._path, new_log_name(log, self._world))
        self._read_connection = open_connection(self._path, readonly=True, vfs=vfs)
        refuse_old_schema(self._read_connection, self._path)
        log_id, self.identity = _identity(self._read_connection, log)
        use_of(self._read_connection, log_id).refuse(self._path, read_only=self._lock is None)
        self._file = FileIdentity(self._path)
        # SQLite keeps it beside the file that a symbolic link points to.
        self._write_ahead_log = FileIdentity(f"{os.path.realpath(self._path)}-wal")
        self._files_checked = self._world.monotonic()
        if self._write_connection is not None:
            _check_tail(self._read_connection, log_id, self._path)
            reader = LogReader(self._read_connection, log_id, self._catalogue)
            clock = CommandClock(self._world, reader.last_recorded_at())
            self._writer = LogWriter(self._write_connection, log_id, self._catalogue, clock, self.retention)
            assert self._lock is not None
            self._main_file = MainFile(self._file, self._lock, log_id, reader.head().position, vfs)
        return log_id

    async def append(self, batch: Sequence[Append]) -> list[Outcome]:
        if self.damage:
            self.damage.refuse_appends([(append.conditions, append.command_id) for append in batch])
        outcomes = self._write(lambda writer: writer.append(batch))
        self._news.fire()
        return outcomes

    async def stored_bytes(self) -> int:
        return _bytes_of(self._path)

    async def retag(self, tags: Mapping[Position, Sequence[str]]) -> None:
        self._write(lambda writer: writer.retag(tags))

    async def begin_epoch(self, cause: str) -> int:
        self._write(lambda writer: writer.begin_epoch())
        _, self.identity = _identity(self._read_connection, self.identity.log.rpartition("-")[0])
        return self.identity.epoch

    def _write(self, write: Callable[[LogWriter], T]) -> T:
        if self._writer is None:
            raise Unavailable(f"{self._path} was opened for reading only.")
        self._check_files()
        self._stop_if_lost(self._file)
        self._stop_if_overwritten()
        if self.problem:
            raise Unavailable(self.problem)
        try:
            with DiskErrors(self._path):
                written = write(self._writer)
        except ForkedHistory as error:
            self.problem = f"The log stopped: {error} Restart the process; it checks the log before it writes again."
            raise Unavailable(self.problem) from error
        except Unavailable as error:
            self._stop_after(error.__cause__)
            raise
        try:
            if self._writer.write_back() and self._main_file is not None:
                self._note_overwritten(self._main_file.written_back(self._reader.head()))
        except apsw.Error as error:
            # The batch is on disk and stays acknowledged.
            self._stop_after(error)
        return written

    async def read(
        self, query: EventQuery, after: Position = 0, limit: int | None = None, size: int = PAGE_BYTES
    ) -> Slice:
        self._check_files()
        conditions = [AppendCondition(query, after)]
        with DiskErrors(self._path):
            return self._sound(conditions, self._reader.slice(conditions, limit, size))

    async def newer(
        self, conditions: Sequence[AppendCondition], command_id: str | None = None, limit: int | None = None
    ) -> tuple[Slice, Appended | None]:
        self._check_files()
        with DiskErrors(self._path):
            page = self._sound(conditions, self._reader.slice(conditions, limit))
            self.damage.refuse_command(command_id)
            if command_id is None:
                return page, None
            known = self._reader.remembered([command_id]).get(command_id)
            return page, known[1] if known else None

    async def rows(
        self, space: str, keys: Sequence[str] | None = None, limit: int | None = None
    ) -> Mapping[str, LogRow]:
        self._check_files()
        with DiskErrors(self._path):
            return self._reader.rows(space, keys, limit)

    async def wait(self, after: Position, timeout: float) -> None:
        news = self._news.next
        self._check_files()
        with DiskErrors(self._path):
            if self._reader.head().position > after:
                return
        # Another process may be the writer. It cannot wake this one, so the head is polled.
        step = timeout if self._writer is not None else min(timeout, _READER_POLL)
        await self._world.poll(news, step)

    def _sound(self, conditions: Sequence[AppendCondition], page: Slice) -> Slice:
        """The same page. Unavailable where it touches damage."""
        self.damage.refuse_page(conditions, page.events, page.upto)
        if self._check_reads:
            chains = {
                position: chain_at(self._read_connection, self._log_id, position) for position in unlinked(page.events)
            }
            self.damage.refuse_broken(page.events, chains, self.identity.log)
        return page

    def raw_log(self) -> SqliteRawLog:
        return SqliteRawLog(self._read_connection, self._log_id)

    def raw_state(self) -> SqliteRawState:
        return SqliteRawState(self._read_connection, self._log_id)

    def snapshot(self) -> AbstractAsyncContextManager[LogSnapshot]:
        return reading_snapshot(self._path, partial(_identity, log=self._log), self._world)

    def closed(self) -> AbstractAsyncContextManager[ClosedLog]:
        identify = partial(_identity, log=self._log)
        return closed_log(self._path, identify, self._world, self._seal)

    def _seal(self, place: str) -> None:
        self._write(lambda writer: writer.begin_epoch(place))
        self.problem = moved_to(self._path, place)

    async def close(self) -> None:
        self._release()

    def _check_files(self) -> None:
        """Check both files, at most once a second."""
        now = self._world.monotonic()
        if now - self._files_checked >= _FILE_CHECK:
            self._files_checked = now
            self._stop_if_lost(self._file)
            self._stop_if_lost(self._write_ahead_log)
            self._stop_if_overwritten()
        if self._overwritten:
            raise Unavailable(self._overwritten)

    def _stop_if_lost(self, file: FileIdentity) -> None:
        """Stop until a restart if a file was deleted or replaced: what is appended now would be lost."""
        if self.problem is None and file.lost:
            self.problem = (
                f"The log stopped: {file.path} was deleted or replaced while it was in use, and what is appended would "
                "be lost. Stop the process. If the file was moved, move it back; else delete the -wal and -shm files "
                "beside the log and restore the log from a backup. Then start the process again."
            )

    def _stop_if_overwritten(self) -> None:
        if self.problem is None and self._main_file is not None:
            self._note_overwritten(self._main_file.overwritten(self._reader.head()))

    def _note_overwritten(self, reason: str | None) -> None:
        """Stop reads too: what they find may be of two histories. The write-ahead log is not written back any more."""
        if reason is None:
            return
        self.problem = self._overwritten = (
            f"The log stopped: {self._path} was overwritten while it was in use: {reason}. Stop the process, delete "
            "the -wal and -shm files beside the log, and restore the log from a backup. Then start the process again."
        )
        if self._write_connection is not None:
            self._write_connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)

    def _stop_after(self, error: BaseException | None) -> None:
        """Stop until a restart if the disk failed. If it is only full or busy, the next append may succeed."""
        if not isinstance(error, apsw.FullError | apsw.BusyError):
            # After a failed sync the kernel may have dropped the pages: only a new start finds out what the file holds.
            self.problem = (
                f"The log {self._path} stopped after a disk error ({error}). Restart the process; it checks the log "
                "before it writes again."
            )

    def _release(self) -> None:
        self._writer = None
        for name in ("_read_connection", "_write_connection"):
            connection: apsw.Connection | None = getattr(self, name, None)
            if connection is not None:
                connection.close()
        if self._lock is not None:
            self._lock.release()


def _bytes_of(path: str) -> int:
    """The size of the file, and of the write-ahead log beside it."""
    path = os.path.realpath(path)
    return sum(os.path.getsize(file) for file in (path, f"{path}-wal") if os.path.exists(file))


def _identity(connection: apsw.Connection, log: str) -> tuple[int, LogIdentity]:
    with_logs = connection.execute("select 1 from sqlite_schema where name = 'logs'").fetchone() is not None
    sql = "select log_id from logs where name like ? || '-%'"
    for (log_id,) in connection.execute(sql, (log,)) if with_logs else ():
        return log_id, identity_of(connection, log_id)
    raise WiringError(
        f"There is no log '{log}' in {connection.filename}. Name the file of a log, or open it once for writing."
    )


def _check_tail(connection: apsw.Connection, log_id: int, path: str) -> None:
    """WiringError unless the end of the log is complete: a disk that reports a sync it did not do would damage it."""
    try:
        row = SqliteRawLog(connection, log_id).head_now()
        after = max(0, row.position - _TAIL_CHECKED)
        found = damages(raw_events(connection, log_id, after), after, chain_at(connection, log_id, after), row.position)
        name = str(connection.execute("select name from logs where log_id = ?", (log_id,)).get)
        reason = next((damage.message for damage in (*found, *head_damages(row, name))), None)
    except LogUnreadable as error:
        reason = f"It cannot be read: {error}."
    if reason is not None:
        raise WiringError(f"The log {path} is damaged. {reason} Restore the log from a backup.")

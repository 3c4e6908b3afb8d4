"""The connections to one SQLite file: one for writing, inline on the event loop, and one for each open snapshot."""

import asyncio
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import apsw

from twofold.errors import Unavailable
from twofold.read_store.refusals import read_only
from twofold.sqlite_file import (
    DiskErrors,
    FileIdentity,
    claim,
    open_connection,
    refuse_network_file_system,
    refuse_old_sqlite,
)
from twofold.sqlite_lock import FileLock, close_unused_descriptors
from twofold.world import World

APPLICATION_ID = 0x54465657
_VACUUM_PAGES = 500
"""Pages that are given back at a time: 2 MB."""


class SqliteConnections:
    """See `SqliteReadStore`. `main` is the connection for all but snapshots; it writes unless `read_only`."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool, snapshots: int) -> None:
        refuse_old_sqlite()
        refuse_network_file_system(path)
        self.path = path
        self.read_only = read_only
        self._open = True
        self._lock = None if read_only else FileLock(path)
        self._idle: list[apsw.Connection] = []
        self._room = asyncio.Semaphore(snapshots)
        try:
            self.main = open_connection(path, readonly=read_only, gives_space_back=not read_only)
            self._file = FileIdentity(os.fspath(path))
            self._real_path = os.path.realpath(path)
            if not read_only:
                with DiskErrors(path):
                    claim(self.main, path, "read database", APPLICATION_ID)
        except BaseException:
            self.release_lock()
            raise

    def check_file(self) -> None:
        """Unavailable where the file was deleted or replaced. SQLite itself would go on in the lost one."""
        if self._file.lost:
            raise Unavailable(
                f"{os.fspath(self.path)} was deleted or replaced while it was open. Restart this process: it goes on "
                "with the file that is there, or rebuilds its read models in a new one."
            )

    @contextmanager
    def transaction(self) -> Generator[apsw.Connection]:
        if self.read_only:
            raise read_only(os.fspath(self.path))
        with DiskErrors(self.path):
            self.main.execute("begin immediate")
            try:
                yield self.main
                self.main.execute("commit")
            except BaseException:
                # On a full disk and the like, SQLite may have rolled back already.
                if self.main.in_transaction:
                    self.main.execute("rollback")
                raise

    async def give_space_back(self, world: World) -> None:
        """Give back the free pages of the file, in steps between which other tasks have a turn.

        The file is smaller as soon as the write-ahead log is moved into it.
        Files that were created without `gives_space_back` keep them for new rows.
        """
        with DiskErrors(self.path):
            free = self.main.pragma("freelist_count")
            while free:
                self.main.execute(f"pragma incremental_vacuum({_VACUUM_PAGES})").fetchall()
                await world.sleep(0)
                before, free = free, self.main.pragma("freelist_count")
                if free >= before:
                    break

    @asynccontextmanager
    async def reader(self) -> AsyncGenerator[apsw.Connection]:
        """A connection in a transaction for reading."""
        async with self._room:
            with DiskErrors(self.path):
                reader = self._idle.pop() if self._idle else open_connection(self.path, readonly=True)
                try:
                    # SQLite takes its snapshot at the first read after `begin`, not at `begin`.
                    reader.execute("begin; select 1 from checkpoints limit 1").fetchall()
                except apsw.Error:
                    reader.close()
                    raise
            try:
                yield reader
            finally:
                self._give_back(reader)

    def close(self) -> None:
        """Close the connections without a snapshot now, the others with their snapshots. Safe to repeat."""
        if not self._open:
            return
        self._open = False
        try:
            while self._idle:
                self._idle.pop().close()
            with DiskErrors(self.path):
                self.main.close()
            self._remove_stale_wal()
        finally:
            self.release_lock()

    def release_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _remove_stale_wal(self) -> None:
        """Delete the write-ahead log of a lost file: SQLite would apply it to the file that is there now."""
        if not self.read_only and self._file.lost:
            for suffix in ("-wal", "-shm"):
                Path(f"{self._real_path}{suffix}").unlink(missing_ok=True)

    def _give_back(self, reader: apsw.Connection) -> None:
        try:
            reader.execute("rollback")
        except apsw.Error:
            # The query has reported this error, or the next one will. The connection is not used again.
            reader.close()
            return
        if self._open:
            self._idle.append(reader)
        else:
            reader.close()
            close_unused_descriptors()

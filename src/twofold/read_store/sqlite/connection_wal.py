"""The write-ahead log of a SQLite file is moved into the file on a thread, so that the event loop does not wait for it.

A thread that writes beside a busy loop is slow, because it has to take turns with it for each row. This one makes a
single call, in which SQLite does not need the interpreter.
"""

import asyncio
import logging
import os

import apsw

from twofold.sqlite_file import open_connection

log = logging.getLogger(__name__)

_PAGES = 4_000
"""Pages of the log after which they are moved: 16 MB."""
_LONG = 4 * _PAGES
_FEW = 250
"""Pages that may be moved on the event loop: some milliseconds, most of them for the disk."""
_ROUNDS = 4


class WalMover:
    """Moves the write-ahead log of `main` into its file, whenever it has become long.

    SQLite writes its log from the start again if all of it has been moved. But while one part is moved, the next one is
    written. If the log has become very long that way, the thread goes on until few pages are left, and those are moved
    between two saves.
    """

    def __init__(self, main: apsw.Connection, path: str | os.PathLike[str]) -> None:
        self._main = main
        self._path = path
        self._connection = open_connection(path)
        self._pages = 0
        self._next = _PAGES
        self._task: asyncio.Task[None] | None = None
        main.set_wal_hook(self._committed)

    async def move(self) -> None:
        """Move the whole log now, except what an open snapshot needs."""
        while self._task is not None and not self._task.done():
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = asyncio.create_task(self._move(whole=True))
        await asyncio.shield(self._task)

    async def close(self) -> None:
        """Return when nothing is being moved any more."""
        self._main.set_wal_hook(None)
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._connection.close()

    def _committed(self, connection: apsw.Connection, name: str, pages: int) -> int:
        if pages < self._pages:
            # The log is written from its start again.
            self._next = _PAGES
        self._pages = pages
        if pages >= self._next and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._move())
        return apsw.SQLITE_OK

    async def _move(self, *, whole: bool = False) -> None:
        pages, moved = self._pages, 0
        try:
            for _ in range(_ROUNDS):
                pages, moved = await asyncio.to_thread(
                    self._connection.wal_checkpoint, mode=apsw.SQLITE_CHECKPOINT_PASSIVE
                )
                if self._pages - moved <= _FEW or not (whole or self._pages >= _LONG):
                    break
            if whole or self._pages >= _LONG:
                pages, moved = self._main.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.Error as error:
            # Nothing is lost: the pages stay in the log. A disk that fails makes the next save fail.
            log.warning("The write-ahead log of %s could not be moved into the file: %s", os.fspath(self._path), error)
        # Parts that are written meanwhile, or needed by an open snapshot, stay in the log.
        self._next = _PAGES if self._pages == moved else max(pages, self._pages) + _PAGES

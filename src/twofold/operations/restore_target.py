"""Where a backup is restored to: what is there now, and how it is replaced at once or not at all."""

import os
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

from twofold.domain.events import Position
from twofold.errors import TwofoldError, Unavailable, WiringError
from twofold.operations.durable_files import put_in_place, sync
from twofold.settings import Settings
from twofold.sqlite_file import leave_write_ahead_log
from twofold.sqlite_lock import FileLock
from twofold.stores import create_sealed_log, open_write_store, shown, sqlite_path_of
from twofold.world import World
from twofold.write_store.chain import chain_start
from twofold.write_store.log_content import LogCopy, Replaceable
from twofold.write_store.port import LogIdentity, WriteStore

_FILES_BESIDE = ("-wal", "-shm")


class Target(Protocol):
    """A place for a log. `problem` says why what is there cannot be read, `kept` where it was moved to."""

    problem: str | None
    kept: str | None

    def present(self) -> AbstractAsyncContextManager[WriteStore | None]:
        """The log that is there; None where there is none, or it cannot be read."""
        ...

    def filling(self, identity: LogIdentity, expected: Position) -> AbstractAsyncContextManager[LogCopy]:
        """The new log, to be filled. It replaces the present one, at `expected`, when the context ends without error.

        Until then, and after an error or a kill, what was there is there.
        """
        ...


@contextmanager
def opened_target(url: str, world: World, read_models: "ReplacedFile | None") -> Generator[Target]:
    """The target that the URL of a write store names; read models are put in place with it.

    WiringError where a process writes to its file.
    """
    path = sqlite_path_of(url)
    if path is None:
        yield ServerTarget(url, world, read_models)
        return
    with ReplacedFile(path) as file:
        yield FileTarget(url, file, world, read_models)


class ServerTarget:
    """A log on a server, which is replaced in one transaction."""

    kept: str | None = None
    problem: str | None = None

    def __init__(self, url: str, world: World, read_models: "ReplacedFile | None") -> None:
        self._url = url
        self._read_models = read_models
        self._world = world

    def present(self) -> AbstractAsyncContextManager[WriteStore | None]:
        return self._opened()

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[WriteStore]:
        log = await open_write_store(self._url, Settings(), self._world, read_only=True)
        try:
            yield log
        finally:
            await log.close()

    @asynccontextmanager
    async def filling(self, identity: LogIdentity, expected: Position) -> AsyncGenerator[LogCopy]:
        async with self._opened() as log:
            if not isinstance(log, Replaceable):
                raise WiringError(f"A log cannot be restored into {shown(self._url)}. Name a file or a schema.")
            async with log.replacing(identity, expected) as copy:
                yield copy
                _replace_read_models(self._read_models)


def _replace_read_models(file: "ReplacedFile | None") -> None:
    """Put read models in place just before their log: those behind a log catch up, those ahead would be refused."""
    if file is not None:
        file.replace(damaged=False)


class FileTarget:
    """A log in a file. The new one is written beside it and then gets its name."""

    def __init__(self, url: str, file: "ReplacedFile", world: World, read_models: "ReplacedFile | None" = None) -> None:
        self.problem: str | None = None
        self.kept: str | None = None
        self._url = url
        self._file = file
        self._read_models = read_models
        self._world = world

    @asynccontextmanager
    async def present(self) -> AsyncGenerator[WriteStore | None]:
        log: WriteStore | None = None
        if self._file.exists:
            try:
                log = await open_write_store(self._url, Settings(), self._world, read_only=True)
            except TwofoldError as error:
                self.problem = str(error)
        try:
            yield log
        finally:
            if log is not None:
                await log.close()

    @asynccontextmanager
    async def filling(self, identity: LogIdentity, expected: Position) -> AsyncGenerator[LogCopy]:
        path = str(self._file.new)
        async with create_sealed_log(path, identity, 0, chain_start(identity.log), self._world) as copy:
            yield copy
        _replace_read_models(self._read_models)
        self._file.replace(damaged=self.problem is not None)
        self.kept = self._file.kept


class ReplacedFile:
    """A SQLite file under the lock of its writer, and a new one in a folder beside it, until the context ends.

    The old file is kept as `<file>.replaced-<n>`: it may be the last copy of something.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(os.path.realpath(path))
        self.kept: str | None = None
        self._folder = self.path.with_name(f"{self.path.name}.restoring")
        self.new = self._folder / self.path.name

    def __enter__(self) -> "ReplacedFile":
        self._remove_second_name()
        self._lock = FileLock(self.path)
        try:
            # Left by a restore that was killed.
            self._remove_folder()
            self._folder.mkdir(0o700)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_folder()
        if not self.exists:
            # The lock has created it.
            self.path.unlink(missing_ok=True)
        self._lock.release()

    @property
    def exists(self) -> bool:
        """Whether there is anything in the present file."""
        return self.path.exists() and self.path.stat().st_size > 0

    def replace(self, *, damaged: bool) -> None:
        """Put the new file in place, in one step.

        Unavailable where a process reads the present file: it would disturb the new one.
        """
        sync(self.new)
        kept = self._free_name()
        if not self.exists:
            put_in_place(self.new, self.path)
            return
        self._take_over_owner()
        self._complete_present(kept, damaged)
        # Between the two steps the file has two names. A writer refuses that, and says to delete one of them.
        os.link(self.path, kept)
        sync(kept.parent)
        put_in_place(self.new, self.path)
        self.kept = str(kept)

    def _complete_present(self, kept: Path, damaged: bool) -> None:
        """Leave no write-ahead log beside the present file: SQLite would apply it to the new one."""
        try:
            leave_write_ahead_log(str(self.path))
        except Unavailable as error:
            if not damaged:
                raise Unavailable(
                    f"{self.path} is read by another process, for example by `twofold log`. Stop it, then repeat. "
                    f"({error})"
                ) from error
            for suffix in _FILES_BESIDE:
                if (beside := self._beside(self.path, suffix)).exists():
                    os.replace(beside, self._beside(kept, suffix))
        for suffix in _FILES_BESIDE:
            self._beside(self.path, suffix).unlink(missing_ok=True)

    def _take_over_owner(self) -> None:
        present = self.path.stat()
        os.chmod(self.new, present.st_mode & 0o777)
        if os.geteuid() == 0:
            os.chown(self.new, present.st_uid, present.st_gid)

    def _free_name(self) -> Path:
        number = 1
        while (name := self.path.with_name(f"{self.path.name}.replaced-{number}")).exists():
            number += 1
        return name

    def _remove_second_name(self) -> None:
        """Delete the second name that a restore has made of the file and that was killed before it replaced it."""
        if not self.path.exists():
            return
        for name in self.path.parent.glob(f"{self.path.name}.replaced-*"):
            if name.samefile(self.path):
                name.unlink()

    def _remove_folder(self) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)

    @staticmethod
    def _beside(path: Path, suffix: str) -> Path:
        return path.with_name(f"{path.name}{suffix}")

"""The lock of the one writer of a SQLite file, on descriptors that must not disturb the locks of SQLite itself."""

import fcntl
import os
import stat
import sys
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType

from twofold.errors import Unavailable, WiringError

_PROC_DESCRIPTORS = "/proc/self/fd"
# Elsewhere such a lock and the locks of SQLite exclude each other.
_LOCKS_DATABASE = sys.platform == "linux"
descriptors_change = threading.Lock()
"""Held while descriptors of databases are opened or closed, so that no connection is opened between two steps."""
_retired: dict[tuple[int, int], list[int]] = {}
"""Descriptors that are of no more use, by device and inode, but cannot be closed yet: see `_retire`."""
_OWNER_ONLY = 0o600
_OWNER_ONLY_FOLDER = 0o700


class FileLock:
    """The lock of a file's one writer, held until released or until this process ends. Readers need no lock.

    On Linux it is on the database file itself, so a second writer is refused by whatever path it comes, also after the
    lock file was deleted. Everywhere it is also on `<file>.lock`, which names the process. WiringError, naming the
    other process, where one holds it, and where the file has a second name. Close connections before it is released.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.realpath(path)
        make_parents(self.path)
        with descriptors_change:
            self._database = _lock_database(self.path)
            try:
                self._file = _lock_file(self.path)
            except BaseException:
                _retire(self._database)
                raise

    def beginning(self, size: int) -> bytes:
        """The first bytes of the database as they are on disk; empty where databases are not locked themselves.

        The file must not be opened for that: closing it would release the locks of SQLite.
        """
        return os.pread(self._database, size, 0) if self._database >= 0 else b""

    def release(self) -> None:
        """Release the lock. Safe to repeat. The lock file stays: deleting it could release another process's lock."""
        with descriptors_change:
            if self._file >= 0:
                os.close(self._file)
                _retire(self._database)
                self._file = -1


def announce_address(path: str | os.PathLike[str], address: str) -> None:
    """Add to the lock that this process holds on a file where it answers, for other processes to name.

    Does nothing where it holds none.
    """
    try:
        file = os.open(_lock_name(os.path.realpath(path)), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if _holder(file)[0] == str(os.getpid()):
            os.pwrite(file, f"{os.getpid()}\n{address}\n".encode(), 0)
    finally:
        os.close(file)


def announced_address(path: str | os.PathLike[str]) -> str | None:
    """Where the process answers that writes to a file, if it has announced that."""
    try:
        file = os.open(_lock_name(os.path.realpath(path)), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _holder(file)[1]
    finally:
        os.close(file)


def make_parents(path: str | os.PathLike[str]) -> None:
    try:
        Path(path).parent.mkdir(_OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"The folder of {os.fspath(path)} cannot be created: {error.strerror}.") from error


def _lock_database(path: str) -> int:
    """A descriptor of a database file, with the lock of its writer; -1 where databases are not locked themselves."""
    create_private(path)
    with _OpenErrors(path):
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise WiringError(f"{path} is not a file, but a folder or a device. Name a file.")
    if status.st_nlink > 1:
        raise WiringError(
            f"{path} has {status.st_nlink} names (hard links). SQLite keeps a write-ahead log for each of them, and "
            "writing under two damages the file. Delete the other names, or make copies instead."
        )
    while _LOCKS_DATABASE:
        descriptor = _descriptor_of(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            _retire(descriptor)
            raise _in_use(path) from error
        if device_and_inode(path) == _inode_of(descriptor):
            return descriptor
        # The file was replaced meanwhile.
        _retire(descriptor)
    return -1


def _lock_file(path: str) -> int:
    """A descriptor of the lock file of a database, locked, with the id of this process in it."""
    name = _lock_name(path)
    create_private(name)
    with _OpenErrors(name):
        file = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            os.close(file)
            raise _in_use(path) from error
        except OSError:
            os.close(file)
            raise
    return file


def _lock_name(path: str) -> str:
    return f"{path}.lock"


def _in_use(path: str) -> WiringError:
    """The error for a file that another process writes to."""
    try:
        file = os.open(_lock_name(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        pid, address = "", None
    else:
        pid, address = _holder(file)
        os.close(file)
    who = ", ".join(filter(None, [f"pid {pid or 'unknown'}", address]))
    return WiringError(f"Another process ({who}) writes to {path}, and a file has one writer. Stop that process first.")


def _holder(file: int) -> tuple[str, str | None]:
    """The process id and, if it was announced, the address in a lock file."""
    pid, _, rest = os.pread(file, 1_024, 0).decode("utf-8", "replace").partition("\n")
    return pid.strip(), rest.strip() or None


def _descriptor_of(path: str) -> int:
    known = device_and_inode(path)
    if known is not None and (retired := _retired.pop(known, [])):
        descriptor = retired.pop()
        if retired:
            _retired[known] = retired
        return descriptor
    with _OpenErrors(path):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _retire(descriptor: int) -> None:
    """Release the lock of a descriptor, and close it as soon as that does no harm.

    Closing any descriptor of a file releases all POSIX locks that this process has on the file, those of SQLite among
    them. So a descriptor is closed only when nothing else in this process has the file open.
    """
    if descriptor < 0:
        return
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    _retired.setdefault(_inode_of(descriptor), []).append(descriptor)
    _close_unused()


def close_unused_descriptors() -> None:
    """Close the descriptors of released locks whose files have no connection in this process any more.

    To be called after a connection was closed later than its lock was released.
    """
    with descriptors_change:
        _close_unused()


def _close_unused() -> None:
    if not _retired:
        return
    for inode, count in _open_descriptors().items():
        if count == len(_retired.get(inode, ())):
            for unused in _retired.pop(inode):
                os.close(unused)


def _open_descriptors() -> Counter[tuple[int, int]]:
    """How many descriptors this process has of each file, by device and inode; empty where that is not known."""
    found: Counter[tuple[int, int]] = Counter()
    try:
        names = os.listdir(_PROC_DESCRIPTORS)
    except OSError:
        return found
    for name in names:
        inode = device_and_inode(f"{_PROC_DESCRIPTORS}/{name}")
        if inode is not None:
            found[inode] += 1
    return found


class _OpenErrors:
    """A context that raises errors of opening a file as Unavailable with what to do."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise Unavailable(
                f"{self._path} cannot be opened: {error.strerror}. Let this user write to the file and its folder."
            ) from error


def create_private(path: str) -> None:
    """Create a file, if it is missing, that only its owner may read and write, whatever the umask is.

    SQLite gives its other files (`-wal`, `-shm`) the mode of the database.
    """
    with _OpenErrors(path):
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY)
        except FileExistsError:
            return
        os.fchmod(file, _OWNER_ONLY)
        os.close(file)


def device_and_inode(path: str, *, follow_symlinks: bool = True) -> tuple[int, int] | None:
    try:
        status = os.stat(path, follow_symlinks=follow_symlinks)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _inode_of(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino

"""SQLite files: safe connections, one writer per file, and refusal of files where SQLite can lose data."""

import fcntl
import os
from pathlib import Path
from types import TracebackType

import apsw

from twofold.errors import Unavailable, WiringError

OLDEST_SQLITE = (3, 51, 3)
"""Older versions may lose writes when two connections reset the write-ahead log at the same moment."""

BUSY_MILLISECONDS = 2_000

_PROC_MOUNTS = Path("/proc/mounts")
# 9p and virtiofs are left out: sandboxes and virtual machines show their own local disk as one.
_NETWORK = (
    *("afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2"),
    *("fuse.ceph", "fuse.davfs2", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs"),
    *("smb3", "smbfs"),
)
_DISK_ERRORS = (
    apsw.AuthError,
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.ConnectionClosedError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.IOError,
    apsw.LockedError,
    apsw.NoLFSError,
    apsw.NoMemError,
    apsw.NotADBError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
)


class DiskErrors:
    """A context that raises errors of the disk, and locks of other processes, as Unavailable with their cause."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, _DISK_ERRORS):
            raise Unavailable(f"The file {self._path} cannot be used now: {error}. Check its disk.") from error


class FileLock:
    """The lock of a file's one writer: `<file>.lock`, held until released or until this process ends.

    WiringError, naming the other process, where one holds it. Readers need no lock.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        _make_parents(path)
        name = f"{os.fspath(path)}.lock"
        try:
            self._file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Unavailable(
                f"The lock {name} cannot be opened: {error.strerror}. Let this user write to the folder."
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise WiringError(
                f"Another process (pid {holder}) writes to {os.fspath(path)}, and a file has one writer. Stop that "
                "process, or open the file read-only."
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Release the lock. Safe to repeat. The lock file stays: deleting it could release another process's lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class FileIdentity:
    """Tells whether the file at a path is still the one that was there when this was made."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._known = _device_and_inode(path)

    @property
    def lost(self) -> bool:
        """Whether the file was deleted or replaced."""
        return _device_and_inode(self.path) != self._known


def open_connection(path: str | os.PathLike[str], *, readonly: bool = False, vfs: str | None = None) -> apsw.Connection:
    """A safe connection: WAL, a busy timeout, an untrusted schema, pages checked as they are read.

    A writer creates the file and its folders and sets `synchronous` itself; a reader can only read. Unavailable where
    the file cannot be opened or, for a reader, does not exist.
    """
    if readonly and vfs is None and not os.path.exists(path):
        raise Unavailable(f"There is no file {os.fspath(path)}. Start the app that writes it first (`twofold serve`).")
    if not readonly:
        _make_parents(path)
    with DiskErrors(path):
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(os.fspath(path), flags=flags, vfs=vfs)
        try:
            _harden(connection, readonly)
        except apsw.Error:
            connection.close()
            raise
        return connection


def claim(connection: apsw.Connection, path: str | os.PathLike[str], what: str, number: int) -> None:
    """Mark a new file as a `what` ("log", …). WiringError where it holds something else.

    `number` is the `application_id` for `what` in the header of the file.
    """
    present = connection.pragma("application_id")
    tables = connection.execute("select count(*) from sqlite_schema").get
    if present == number:
        return
    if present or tables:
        raise WiringError(f"The file {os.fspath(path)} exists and is not a {what} of Twofold. Name another file.")
    connection.pragma("application_id", number)


def refuse_network_file_system(path: str | os.PathLike[str], mounts: Path = _PROC_MOUNTS) -> None:
    """WiringError where `path` is on a network file system, whose locks do not work for SQLite. Only on Linux."""
    try:
        lines = mounts.read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return
    file = os.path.realpath(path)
    mount, kind = "", ""
    for line in lines:
        _, mounted, filesystem, *_ = line.split(" ")
        folder = _unescaped(mounted)
        inside = file == folder or file.startswith(folder.rstrip("/") + "/")
        if inside and len(folder) >= len(mount):
            mount, kind = folder, filesystem
    if kind in _NETWORK:
        raise WiringError(
            f"{os.fspath(path)} is on a network file system ({kind}, mounted at {mount}), where SQLite can lose data. "
            "Put the file on a local disk, or use a database server."
        )


def refuse_old_sqlite(version: str | None = None) -> None:
    """WiringError where the SQLite in apsw is older than 3.51.3: it can damage a write-ahead log."""
    present = version or apsw.sqlite_lib_version()
    if tuple(int(part) for part in present.split(".")[:3]) < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise WiringError(f"SQLite {present} is too old. Upgrade the package apsw to SQLite {needed} or newer.")


def _device_and_inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _unescaped(mounted: str) -> str:
    for octal, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        mounted = mounted.replace(octal, letter)
    return mounted


def _make_parents(path: str | os.PathLike[str]) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"The folder of {os.fspath(path)} cannot be created: {error.strerror}.") from error


def _harden(connection: apsw.Connection, readonly: bool) -> None:
    # Without it a SQLite built with STAT4 plans a statement again whenever a bound LIMIT or range changes, which made
    # every read of the tag index five times slower.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    connection.execute("pragma trusted_schema = off; pragma cell_size_check = on; pragma mmap_size = 0").fetchall()
    if readonly:
        connection.execute("pragma query_only = on")
        return
    mode = connection.execute("pragma journal_mode = wal").get
    if mode not in ("wal", "memory"):
        raise apsw.CantOpenError(f"the journal mode is '{mode}' and cannot be changed to 'wal'")

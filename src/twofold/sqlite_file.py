"""SQLite files: safe connections, and refusal of files where SQLite can lose data."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import apsw

from twofold.errors import Unavailable, WiringError
from twofold.sqlite_lock import create_private, descriptors_change, device_and_inode, make_parents
from twofold.world import World

OLDEST_SQLITE = (3, 51, 3)
"""Older versions may lose writes when two connections reset the write-ahead log at the same moment."""

BUSY_MILLISECONDS = 2_000

_PAGES_AT_ONCE = 1_000
"""Pages that are copied between two reports of progress: 4 MB."""

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
        if isinstance(error, UnicodeDecodeError):
            # SQLite does not check what it has stored as text.
            raise Unavailable(
                f"The file {self._path} is damaged: it holds a text that is not UTF-8. Restore it from a backup."
            ) from error


class FileIdentity:
    """Tells whether the file at a path is still the one that was there when this was made.

    `state` is what changes with each write to the file, as `lost` has seen it last: its size, and two times.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.state = (0, 0, 0)
        self._known = device_and_inode(path)
        self._real_path = os.path.realpath(path)

    @property
    def lost(self) -> bool:
        """Whether the file was deleted or replaced, or moved away from its write-ahead log with a link left behind."""
        try:
            status = os.stat(self._real_path, follow_symlinks=False)
        except OSError:
            return True
        if (status.st_dev, status.st_ino) != self._known:
            return True
        self.state = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        return self._real_path != self.path and device_and_inode(self.path) != self._known


def open_connection(
    path: str | os.PathLike[str], *, readonly: bool = False, gives_space_back: bool = False, vfs: str | None = None
) -> apsw.Connection:
    """A safe connection: WAL, a busy timeout, an untrusted schema, pages checked as they are read.

    A writer creates the file and its folders, for its user alone, and sets `synchronous` itself; a reader can only
    read. With `gives_space_back` a new file can be vacuumed step by step. Unavailable where the file cannot be opened
    or, for a reader, does not exist.
    """
    if readonly and vfs is None and not os.path.exists(path):
        raise Unavailable(f"There is no file {os.fspath(path)}. Start the app that writes it first (`twofold serve`).")
    with DiskErrors(path):
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        with descriptors_change:
            if not readonly:
                make_parents(path)
                create_private(os.path.realpath(path))
            connection = apsw.Connection(os.fspath(path), flags=flags, vfs=vfs)
        try:
            if gives_space_back:
                # It has an effect only before anything is written.
                connection.pragma("auto_vacuum", "incremental")
            _harden(connection, readonly)
        except apsw.Error:
            connection.close()
            raise
        return connection


def open_immutable(path: str) -> apsw.Connection:
    """A connection to a file that nothing writes: it takes no locks and makes no other files.

    Safe with a file that somebody else has made. apsw.Error where it is not a database.
    """
    with descriptors_change:
        uri = f"file:{quote(os.path.abspath(path))}?immutable=1"
        connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    _harden(connection, readonly=True)
    return connection


async def copy_file(source: apsw.Connection, path: str, world: World, on_progress: Callable[[int, int], None]) -> None:
    """Write a sealed copy of a database, as `source` sees it, to a new file. Progress counts pages.

    It is one moment, and commands go on, where `source` is within a transaction for reading: else SQLite would begin
    again with each commit of another process.
    """
    create_private(path)
    with DiskErrors(path), closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)) as copy:
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(_PAGES_AT_ONCE)
                on_progress(backup.page_count - backup.remaining, backup.page_count)
                await world.sleep(0)
        copy.execute("pragma synchronous = full").fetchall()
        seal(copy)


def seal(connection: apsw.Connection) -> None:
    """Leave the write-ahead log, so that the file is complete without others beside it. It is on disk then."""
    mode = connection.execute("pragma journal_mode = delete").get
    if mode != "delete":
        raise apsw.BusyError(f"the journal mode is '{mode}' and cannot be changed to 'delete'")


def leave_write_ahead_log(path: str) -> None:
    """Write all of a database into its main file, and delete the others. Only under the lock of its writer.

    Unavailable where another process reads it: that one would disturb the file that replaces it.
    """
    with DiskErrors(path), closing(open_connection(path)) as connection:
        seal(connection)


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


def _unescaped(mounted: str) -> str:
    for octal, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        mounted = mounted.replace(octal, letter)
    return mounted


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

"""Files that are put in place so that a crash leaves either the old state or the new one."""

import os
import stat
from hashlib import sha256
from pathlib import Path

from twofold.errors import Unavailable, WiringError

_BLOCK = 1_048_576


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(source: Path, target: Path) -> None:
    """Give a synced file its name, in place of the file that has it. It is on disk under that name afterwards."""
    os.replace(source, target)
    sync(target.parent)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def refuse_other_than_file(path: Path, size: int | None = None) -> None:
    """WiringError unless a path is a regular file, no link, of this size. Unavailable where it is missing."""
    try:
        status = path.lstat()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise WiringError(f"{path} is not a regular file, but a link, a folder or a device.")
    if size is not None and status.st_size != size:
        raise WiringError(f"{path} has {status.st_size:,} bytes, but its manifest says {size:,}.")


def refuse_without_room(folder: Path, size: int) -> None:
    """Unavailable where the file system of a folder has less free space than so many bytes."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if size > free:
        raise Unavailable(f"{size:,} bytes are needed in {folder}, and only {free:,} are free. Make room there.")

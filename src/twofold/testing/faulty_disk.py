"""A disk that fails on request: an SQLite VFS that counts, refuses, and loses what was not synced.

It works on the real file system, so the store that runs on it is the real one. Open a store with `vfs=disk.name`.
"""

import itertools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

Operation = Literal["write", "sync", "truncate", "delete"]
Part = Literal["main", "wal", "other"]

SECTOR = 512
"""Bytes that a disk writes completely or not at all."""

_NUMBERS = itertools.count(1)


class Fault(msgspec.Struct):
    """Makes an operation fail with an SQLite code: `times` times (None: until `repair`), after `skip` good ones."""

    operation: Operation
    code: int
    part: Part | None = None
    skip: int = 0
    times: int | None = None

    def strikes(self, operation: Operation, part: Part) -> bool:
        """Whether this operation on this part of the database fails now. Each call counts."""
        if operation != self.operation or self.part not in (None, part) or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class _Image:
    """The synced content of one file, and what was written since and may be lost."""

    def __init__(self, path: str) -> None:
        self.certain = Path(path).read_bytes() if os.path.exists(path) else b""
        # The lock of the writer creates an empty file.
        self.synced = bool(self.certain)
        self.pending: list[tuple[int, bytes | None]] = []

    def sync(self) -> None:
        self.certain = self.after(lambda: 0.0, 1.0)
        self.pending.clear()
        self.synced = True

    def after(self, random: Callable[[], float], chance: float) -> bytes:
        """The file with each pending sector kept by chance."""
        image = bytearray(self.certain)
        for offset, data in self.pending:
            if data is None:
                if random() < chance:
                    del image[offset:]
                continue
            for start in range(0, len(data), SECTOR):
                if random() < chance:
                    piece = data[start : start + SECTOR]
                    at = offset + start
                    image.extend(bytes(max(0, at + len(piece) - len(image))))
                    image[at : at + len(piece)] = piece
        return bytes(image)


class FaultyDisk(apsw.VFS):
    """A virtual file system for SQLite. `done` counts what was done, by operation and part of the database.

    `lies` makes every sync a no-op that reports success, as cheap disks do. `close` when all files are closed.
    """

    def __init__(self) -> None:
        self.name = f"faulty-disk-{next(_NUMBERS)}"
        self.done: Counter[tuple[Operation, Part]] = Counter()
        self.faults: list[Fault] = []
        self.lies = False
        self.without_power = False
        self._operations_left: int | None = None
        self._images: dict[str, _Image] = {}
        super().__init__(self.name, "")

    def fail(self, operation: Operation, code: int, **options: Part | int | None) -> Fault:
        """From now on this operation fails with an SQLite result code such as `apsw.SQLITE_IOERR_FSYNC`."""
        fault = msgspec.convert({"operation": operation, "code": code, **options}, Fault)
        self.faults.append(fault)
        return fault

    def repair(self) -> None:
        """No operation fails any more."""
        self.faults.clear()

    def cut_power(self, after: int = 0) -> None:
        """After so many more writes, syncs, truncations and deletions nothing reaches the disk any more."""
        self._operations_left = after

    def unsynced(self, part: Part) -> int:
        """Writes to a part of the databases that no sync has followed yet."""
        return sum(len(image.pending) for path, image in self._images.items() if part_of(path) == part)

    def survive(self, folder: Path, random: Callable[[], float]) -> None:
        """Write into `folder` what a power cut leaves: all that was synced, and of the rest what chance keeps.

        `random` gives numbers from 0 to 1 as `random.random` does. Sectors of 512 bytes are kept or lost whole, in no
        order; a file that was never synced may be missing.
        """
        chance = min(1.0, random() * 1.5)
        for path, image in self._images.items():
            if image.synced or random() < chance:
                (folder / Path(path).name).write_bytes(image.after(random, chance))

    def close(self) -> None:
        """Give the name back. Files that are open still must be closed first."""
        self.unregister()

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> "_File":
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        image = self._images.setdefault(path, _Image(path)) if path else None
        return _File(self, name, flags, path or "", image)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.operate("delete", filename)
        super().xDelete(filename, syncdir)
        self._images.pop(filename, None)

    def operate(self, operation: Operation, path: str) -> None:
        """Count an operation that is about to be done, or raise what becomes of it instead."""
        part = part_of(path)
        if self._operations_left == 0:
            self.without_power = True
        if self.without_power:
            raise _error(apsw.SQLITE_IOERR, "the power is off")
        for fault in self.faults:
            if fault.strikes(operation, part):
                raise _error(fault.code, f"{operation} failed, as the test requested")
        if self._operations_left is not None:
            self._operations_left -= 1
        self.done[operation, part] += 1


class _File(apsw.VFSFile):
    def __init__(
        self, disk: FaultyDisk, name: str | apsw.URIFilename | None, flags: list[int], path: str, image: _Image | None
    ) -> None:
        self._disk = disk
        self._path = path
        self._image = image
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:
        self._disk.operate("write", self._path)
        super().xWrite(data, offset)
        if self._image is not None:
            self._image.pending.append((offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        self._disk.operate("truncate", self._path)
        super().xTruncate(newsize)
        if self._image is not None:
            self._image.pending.append((newsize, None))

    def xSync(self, flags: int) -> None:
        self._disk.operate("sync", self._path)
        super().xSync(flags)
        if self._image is not None and not self._disk.lies:
            self._image.sync()


def part_of(path: str) -> Part:
    """Which part of a database a file is."""
    if path.endswith("-wal"):
        return "wal"
    return "other" if not path or path.endswith("-journal") else "main"


def _error(code: int, text: str) -> Exception:
    error = apsw.exception_for(code)
    error.args = (text,)
    return error

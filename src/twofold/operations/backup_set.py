"""A backup as a set of files that its manifest names: opened for reading, each file checked."""

import os
import tarfile
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from twofold.domain.events import Position, RecordedEvent
from twofold.errors import Unavailable, WiringError
from twofold.operations.backup_manifest import (
    LARGEST,
    NAME,
    BackupPart,
    DamagedBackup,
    Manifest,
    parsed,
    read_manifest,
)
from twofold.operations.durable_files import digest_of, put_in_place, refuse_other_than_file, refuse_without_room, sync
from twofold.stores import open_sealed_log, refuse_damaged_read_models, up_to_date_log
from twofold.write_store.log_content import RememberedCommand, SealedLog
from twofold.write_store.port import LogRow

ARCHIVE = ".tar"
_BLOCK = 1_048_576


class BackupContent:
    """What a backup holds, as one log: the events and commands of all parts, the rows of the last one."""

    def __init__(self, parts: Sequence[tuple[BackupPart, SealedLog]]) -> None:
        self._parts = parts

    async def events(self, after: Position, limit: int) -> Sequence[RecordedEvent]:
        for part, log in self._parts:
            if part.after <= after < part.position:
                return await log.events(after, limit)
        return ()

    async def commands(self, after: str, limit: int) -> Sequence[RememberedCommand]:
        found: dict[str, RememberedCommand] = {}
        for _, log in self._parts:
            found |= {command.command_id: command for command in await log.commands(after, limit)}
        return [found[command_id] for command_id in sorted(found)[:limit]]

    async def spaces(self) -> Sequence[str]:
        return await self._parts[-1][1].spaces()

    async def rows(self, space: str, after: str | None, limit: int) -> Mapping[str, LogRow]:
        return await self._parts[-1][1].rows(space, after, limit)


@contextmanager
def opened_backup(path: Path) -> Generator[tuple[Path, Manifest, BackupContent]]:
    """The folder, the manifest and the content of a backup in a folder or an archive, within the context.

    Every part is what the manifest says, and is read with the present schema. The copy of read models is not checked:
    see `damage_of_read_models`. DamagedBackup where a part is not; Unavailable where there is no backup.
    """
    with ExitStack() as stack:
        folder = path if path.is_dir() else stack.enter_context(_unpacked(path))
        manifest = read_manifest(folder)
        for part in manifest.parts:
            refuse_changed(folder, part.file, part.bytes, part.sha256)
        parts: list[tuple[BackupPart, SealedLog]] = []
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="twofold-migrated-"))
        for part in manifest.parts:
            try:
                present = up_to_date_log(str(folder / part.file), scratch)
            except WiringError as error:
                raise DamagedBackup(
                    f"{error} It was made with Twofold {manifest.twofold}: use that version."
                ) from error
            log = stack.enter_context(closing(open_sealed_log(present)))
            if (log.identity.log, log.head, log.chain.hex()) != (manifest.log, part.position, part.chain):
                raise DamagedBackup(f"{folder / part.file} is another log, or ends elsewhere, than its manifest says.")
            parts.append((part, log))
        if parts[-1][1].identity != manifest.identity:
            raise DamagedBackup(f"{folder / NAME} is damaged: its epochs are not those of its last part.")
        yield folder, manifest, BackupContent(parts)


def damage_of_read_models(folder: Path, manifest: Manifest) -> str | None:
    """What is wrong with the copy of read models in the folder of a backup; None where it is right or there is none."""
    copy = manifest.read_models
    if copy is None:
        return None
    try:
        refuse_changed(folder, copy.file, copy.bytes, copy.sha256)
        refuse_damaged_read_models(str(folder / copy.file))
    except (WiringError, Unavailable) as error:
        return str(error)
    return None


def refuse_changed(folder: Path, name: str, size: int, digest: str) -> None:
    """DamagedBackup unless a file of a backup has this size and this SHA-256."""
    path = folder / name
    try:
        refuse_other_than_file(path, size)
        if digest_of(path) != digest:
            raise DamagedBackup(f"{path} has changed since it was written: its SHA-256 is not that of the manifest.")
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}.") from error
    except (WiringError, Unavailable) as error:
        raise DamagedBackup(f"The backup is damaged. {error}") from error


def write_archive(folder: Path, archive: Path) -> None:
    """Write the backup in a folder to one file, the manifest first, and put it in place."""
    manifest = read_manifest(folder)
    partial = archive.with_name(f"{archive.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in (NAME, *(each.file for each in manifest.files)):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o600, (folder / name).stat().st_size
            with (folder / name).open("rb") as content:
                tar.addfile(entry, content)
    sync(partial)
    put_in_place(partial, archive)


@contextmanager
def _unpacked(archive: Path) -> Generator[Path]:
    """A temporary folder with the files of an archive: the manifest, and those that it names, in their sizes."""
    refuse_other_than_file(archive)
    with tempfile.TemporaryDirectory(prefix="twofold-backup-") as name:
        folder = Path(name)
        try:
            with archive.open("rb") as file:
                _unpack(file, folder, str(archive))
        except tarfile.TarError as error:
            raise DamagedBackup(f"{archive} is not the archive of a backup: {error}.") from error
        except OSError as error:
            raise Unavailable(f"{archive} cannot be unpacked in {folder}: {error.strerror}.") from error
        yield folder


def _unpack(file: BinaryIO, folder: Path, archive: str) -> None:
    """Unpack without `tarfile.extract`: only the files that the manifest names, under these names."""
    name, size = _entry(file, archive)
    if name != NAME or size > LARGEST:
        raise DamagedBackup(f"{archive} does not begin with {NAME}.")
    content = b"".join(_content(file, size, archive))
    manifest = parsed(content, f"{NAME} in {archive}")
    (folder / NAME).write_bytes(content)
    refuse_without_room(folder, sum(each.bytes for each in manifest.files))
    for each in manifest.files:
        if _entry(file, archive) != (each.file, each.bytes):
            raise DamagedBackup(f"{archive} has another file where its manifest has {each.file}.")
        with (folder / each.file).open("xb") as target:
            for block in _content(file, each.bytes, archive):
                target.write(block)


def _entry(file: BinaryIO, archive: str) -> tuple[str, int]:
    """The name and the size of the next file. One header is read, and no extension of it."""
    entry = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "ascii", "strict")
    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.size < 0:
        raise DamagedBackup(f"{archive} has something else than regular files: {entry.name!r}.")
    return entry.name, entry.size


def _content(file: BinaryIO, size: int, archive: str) -> Generator[bytes]:
    left = size
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise DamagedBackup(f"{archive} ends early.")
        left -= len(block)
        yield block
    file.seek(-size % tarfile.BLOCKSIZE, os.SEEK_CUR)

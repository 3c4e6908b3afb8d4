"""`twofold backup`: one consistent set of files from a log that is in use, and what was added since the last one."""

import fcntl
import os
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec

from twofold.domain.events import Position
from twofold.errors import ForkedHistory, Unavailable, WiringError
from twofold.operations.backup_manifest import (
    FORMAT,
    NAME,
    BackupPart,
    Manifest,
    ReadModelsCopy,
    read_manifest,
    write_manifest,
)
from twofold.operations.backup_set import ARCHIVE, refuse_changed, write_archive
from twofold.operations.durable_files import digest_of, put_in_place, refuse_other_than_file, sync
from twofold.operations.progress import OnProgress
from twofold.stores import copy_read_models, create_sealed_log, open_sealed_log, up_to_date_log
from twofold.world import World
from twofold.write_store.chain import chain_digest, chain_start
from twofold.write_store.log_content import CopiesFile, HasSnapshots, LogSnapshot
from twofold.write_store.log_copier import Pace, copy_all
from twofold.write_store.port import LogIdentity, WriteStore

_LOCK = "lock"
_OWNER_ONLY_FOLDER = 0o700


class BackupResult(msgspec.Struct, frozen=True):
    """Up to which position a backup goes now, and what was added to it: the events after a position, and bytes."""

    log: str
    epoch: int
    position: Position
    digest: str
    added_after: Position
    added_size: int
    parts: int
    read_models: bool


class BackupWork(NamedTuple):
    """What a backup needs: the read database to copy along (None: none), the world, and where progress goes."""

    read_models: str | None
    world: World
    on_progress: OnProgress


async def backup(write_store: WriteStore, target: Path, work: BackupWork) -> BackupResult:
    """Back up a log to a folder, or to a new file whose name ends in `.tar`, while commands go on.

    A folder that has a backup of the same history gets only what is new. ForkedHistory where it has another history.
    WiringError where the target is something else, or the log is damaged; the backup stays as it was then.
    """
    if not isinstance(write_store, HasSnapshots):
        raise WiringError("A log in memory exists only in its process. There is nothing to back up.")
    if target.suffix != ARCHIVE:
        return await _add_to(write_store, target, work)
    _refuse_present(target)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        result = await _add_to(write_store, Path(scratch) / "set", work)
        write_archive(Path(scratch) / "set", target)
        return result


def _refuse_present(archive: Path) -> None:
    if archive.is_dir():
        raise WiringError(f"{archive} is a folder, and a name that ends in {ARCHIVE} is that of a file. Name another.")
    if archive.exists():
        raise WiringError(f"{archive} exists. Name a new file, or a folder, to which a backup adds only what is new.")
    archive.parent.mkdir(_OWNER_ONLY_FOLDER, parents=True, exist_ok=True)


async def _add_to(write_store: HasSnapshots, folder: Path, work: BackupWork) -> BackupResult:
    with _locked(folder):
        before = _present(folder)
        number = len(before.parts) + 1 if before else 1
        # First: a read model may be behind the log that it is restored with, but not ahead of it.
        copied = None if work.read_models is None else await _copy(folder, number, work.read_models, work.world)
        async with write_store.snapshot() as snapshot:
            _refuse_moved(snapshot)
            after, chain = await _continued(before, snapshot, folder)
            part = await _part(folder, number, snapshot, (after, chain), work)
            identity = snapshot.identity
            manifest = Manifest(
                format=FORMAT,
                twofold=version("twofold"),
                log=identity.log,
                epoch=identity.epoch,
                forks=identity.forks,
                position=snapshot.head,
                chain=snapshot.chain.hex(),
                parts=(*(before.parts if before else ()), part),
                read_models=copied or (before.read_models if before else None),
            )
        write_manifest(folder, manifest)
        if copied and before and before.read_models:
            (folder / before.read_models.file).unlink(missing_ok=True)
    return BackupResult(
        log=manifest.log,
        epoch=manifest.epoch,
        position=manifest.position,
        digest=chain_digest(snapshot.chain),
        added_after=after,
        added_size=part.bytes,
        parts=len(manifest.parts),
        read_models=manifest.read_models is not None,
    )


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """A folder for one backup at a time. It is created where it is missing. WiringError where it is a file."""
    if folder.exists() and not folder.is_dir():
        raise WiringError(f"{folder} is a file. Name a folder, or a new file whose name ends in {ARCHIVE}.")
    try:
        folder.mkdir(_OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unavailable(f"The folder {folder} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Unavailable(f"Another process makes a backup in {folder}. Wait for its end.") from error
    finally:
        os.close(descriptor)


def _present(folder: Path) -> Manifest | None:
    """The manifest of the backup in a folder; None where the folder has none yet."""
    if not (folder / NAME).exists():
        others = sorted(entry.name for entry in folder.iterdir() if not _of_a_backup(entry.name))
        if others:
            raise WiringError(f"{folder} has no backup, but other files: {', '.join(others[:5])}. Name a new folder.")
        return None
    manifest = read_manifest(folder)
    for part in manifest.parts:
        refuse_other_than_file(folder / part.file, part.bytes)
    # Further parts are found to be damaged by `--check`; the last one is continued.
    last = manifest.parts[-1]
    refuse_changed(folder, last.file, last.bytes, last.sha256)
    with tempfile.TemporaryDirectory(prefix="twofold-backup-") as scratch:
        try:
            open_sealed_log(up_to_date_log(str(folder / last.file), scratch)).close()
        except WiringError as error:
            raise WiringError(f"The backup in {folder} cannot be continued. Begin another folder. {error}") from error
    return manifest


def _of_a_backup(name: str) -> bool:
    """Whether a file may be left from a backup that was interrupted before it had a manifest."""
    return name == _LOCK or name.startswith((NAME, "log-1.db", "views-1.db"))


def _refuse_moved(snapshot: LogSnapshot) -> None:
    if snapshot.use.use == "moved":
        raise WiringError(
            f"The log {snapshot.identity.log} was moved to {snapshot.use.place}. Name that place as the write store, "
            "also for timers that make backups: nothing is written here any more."
        )


async def _continued(before: Manifest | None, snapshot: LogSnapshot, folder: Path) -> tuple[Position, bytes]:
    """The position after which a log continues a backup, and the chain there. ForkedHistory where it does not."""
    if before is None:
        return 0, chain_start(snapshot.identity.log)
    position, digest = before.position, before.chain
    begin_another = "Begin a new backup: name another folder, and keep this one."
    if before.log != snapshot.identity.log:
        raise ForkedHistory(
            f"{folder} has a backup of the log {before.log}, not {snapshot.identity.log}. {begin_another}"
        )
    if snapshot.head < position:
        raise ForkedHistory(
            f"The log {before.log} ends at position {snapshot.head}, but the backup in {folder} goes up to {position}: "
            f"the log has lost events. Restore them from it (`twofold restore`). Else: {begin_another}"
        )
    chain = await _chain_at(snapshot, position)
    if chain.hex() != digest:
        raise ForkedHistory(
            f"The log {before.log} has another history than the backup in {folder}: its chain at position {position} "
            f"is {chain_digest(chain)}, not {chain_digest(bytes.fromhex(digest))}. {begin_another}"
        )
    if not snapshot.identity.holds(LogIdentity(before.log, before.epoch, before.forks).stamp(digest), position):
        raise ForkedHistory(
            f"The backup in {folder} is of epoch {before.epoch} of the log {before.log}, and this log is in epoch "
            f"{snapshot.identity.epoch}, which does not follow from it: one of them was restored, or the log was "
            f"moved. Check first that this is the log that the app uses. {begin_another}"
        )
    return position, chain


async def _chain_at(snapshot: LogSnapshot, position: Position) -> bytes:
    if not position:
        return chain_start(snapshot.identity.log)
    events = await snapshot.events(position - 1, 1)
    return events[0].chain if events else b""


async def _part(
    folder: Path, number: int, snapshot: LogSnapshot, continued: tuple[Position, bytes], work: BackupWork
) -> BackupPart:
    """A new part on disk, read back and checked. It counts once the manifest names it."""
    name = f"log-{number}.db"
    partial = folder / f"{name}.partial"
    _remove(partial)
    try:
        schema = await _filled_part(partial, snapshot, continued, work)
    except BaseException:
        _remove(partial)
        raise
    size, digest = partial.stat().st_size, digest_of(partial)
    sync(partial)
    put_in_place(partial, folder / name)
    taken_at = work.world.now().isoformat(timespec="seconds")
    return BackupPart(
        file=name,
        after=continued[0],
        position=snapshot.head,
        chain=snapshot.chain.hex(),
        schema=schema,
        bytes=size,
        sha256=digest,
        taken_at=taken_at,
    )


async def _filled_part(
    partial: Path, snapshot: LogSnapshot, continued: tuple[Position, bytes], work: BackupWork
) -> int:
    """Write the file of a part, read it back and check it. The version of its schema."""
    after, chain = continued
    if after == 0 and isinstance(snapshot, CopiesFile):
        await snapshot.copy_to(str(partial), work.on_progress)
    else:
        async with create_sealed_log(str(partial), snapshot.identity, after, chain, work.world) as part:
            await copy_all(snapshot, part, (snapshot.head, snapshot.chain), Pace(work.on_progress, work.world))
    with closing(open_sealed_log(str(partial))) as log:
        damage = next(log.damages(after, chain), None)
        if damage is not None:
            raise WiringError(
                f"The log is damaged, and was not backed up: {damage.message} Run `twofold verify`, and restore the "
                "log from an older backup. What is in the folder is as it was."
            )
        return log.schema


async def _copy(folder: Path, number: int, read_models: str, world: World) -> ReadModelsCopy:
    name = f"views-{number}.db"
    partial = folder / f"{name}.partial"
    _remove(partial)
    await copy_read_models(read_models, str(partial), world)
    copied = ReadModelsCopy(name, partial.stat().st_size, digest_of(partial), world.now().isoformat(timespec="seconds"))
    sync(partial)
    put_in_place(partial, folder / name)
    return copied


def _remove(partial: Path) -> None:
    """Delete what an interrupted backup has left under this name."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        partial.with_name(f"{partial.name}{suffix}").unlink(missing_ok=True)

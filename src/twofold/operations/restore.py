"""`twofold restore`: a backup becomes a log again, verified before it replaces anything. And the drill of that."""

import shutil
import tempfile
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import TwofoldError, WiringError
from twofold.operations.backup_manifest import DamagedBackup, Manifest
from twofold.operations.backup_set import BackupContent, damage_of_read_models, opened_backup
from twofold.operations.progress import OnProgress, no_progress
from twofold.operations.restore_target import FileTarget, ReplacedFile, Target, opened_target
from twofold.stores import open_sealed_log, shown
from twofold.world import World
from twofold.write_store.chain import chain_digest, chain_start
from twofold.write_store.history import digest_at, last_common_position
from twofold.write_store.log_copier import CopyCounts, Pace, copy_all
from twofold.write_store.port import LogIdentity, WriteStore


class LostEvents(msgspec.Struct, frozen=True):
    """The events of a log that a backup does not have: the log, and their positions."""

    log: str
    first: Position
    last: Position

    @property
    def count(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


class RestoreResult(msgspec.Struct, frozen=True):
    """The restored log with its new epoch, how much it holds, and what it has replaced.

    `lost` are the events that were only in the replaced log; `unreadable` says why that could not be read. `kept` is
    where the replaced file is now. `read_models` says why those of the backup were not restored: they are damaged.
    """

    log: str
    epoch: int
    position: Position
    events: int
    commands: int
    rows: int
    lost: LostEvents | None
    unreadable: str | None
    kept: str | None
    read_models: str | None


class CheckResult(msgspec.Struct, frozen=True):
    """What a drill has found: how much the backup holds, and when it was made. `problem` is None where it is right."""

    log: str
    epoch: int
    position: Position
    events: int
    commands: int
    rows: int
    parts: int
    read_models: bool
    taken_at: str
    problem: str | None


class RestoreOrder(NamedTuple):
    """Where to restore to: the log, the read database (None: not), and whether to replace what would be lost."""

    write_store: str
    read_models: str | None = None
    replace: bool = False


class _Present(NamedTuple):
    """The log at a target: its head (0: there is none), its epoch, and what would be lost of it."""

    head: Position
    epoch: int
    lost: LostEvents | None


async def restore(
    path: Path, order: RestoreOrder, world: World, on_progress: OnProgress = no_progress
) -> RestoreResult:
    """Restore a backup to a log that then begins a new epoch, and say what was lost with the log before.

    All or nothing. DamagedBackup where the backup is not right. WiringError where the target has events that the backup
    does not have, or cannot be read, unless the order says to replace it; or where a process writes to its file.
    """
    with ExitStack() as stack:
        folder, manifest, content = stack.enter_context(opened_backup(path))
        damaged = damage_of_read_models(folder, manifest) if order.read_models else None
        views = None if damaged else _prepared_read_models(stack, folder, manifest, order)
        target = stack.enter_context(opened_target(order.write_store, world, views))
        async with target.present() as log:
            try:
                present = await _present(log, manifest, content)
            except (TwofoldError, LookupError) as error:
                if not isinstance(target, FileTarget):
                    raise
                target.problem, present = str(error), _Present(0, 0, None)
        if not order.replace:
            _refuse_loss(target, present, manifest, order)
        identity = _next_identity(manifest, present.epoch)
        counts = await _fill(target, (manifest, content), identity, present.head, Pace(on_progress, world))
        return RestoreResult(
            manifest.log,
            identity.epoch,
            manifest.position,
            *counts,
            lost=present.lost,
            unreadable=target.problem,
            kept=target.kept,
            read_models=damaged,
        )


async def check(path: Path, world: World, on_progress: OnProgress = no_progress) -> CheckResult:
    """Restore a backup into a temporary folder and verify that log: every event, its chain and its tags.

    Unavailable where there is no backup. What is wrong with one is the `problem` of the result, which says nothing else
    where not even the files are as the manifest says.
    """
    try:
        with opened_backup(path) as (folder, manifest, content):
            counts, problem = await _drill(folder, manifest, content, world, on_progress)
    except DamagedBackup as error:
        return CheckResult(*("", 0, 0, 0, 0, 0, 0), read_models=False, taken_at="", problem=str(error))
    return CheckResult(
        manifest.log,
        manifest.epoch,
        manifest.position,
        *counts,
        len(manifest.parts),
        read_models=manifest.read_models is not None,
        taken_at=manifest.parts[-1].taken_at,
        problem=problem,
    )


async def _drill(
    folder: Path, manifest: Manifest, content: BackupContent, world: World, on_progress: OnProgress
) -> tuple[CopyCounts, str | None]:
    """How much was restored, and what is wrong with it."""
    counts = CopyCounts(0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="twofold-drill-") as name:
        restored = Path(name) / "log.db"
        try:
            with ReplacedFile(str(restored)) as file:
                target = FileTarget(f"sqlite:///{restored}", file, world)
                counts = await _fill(
                    target, (manifest, content), _next_identity(manifest, 0), 0, Pace(on_progress, world)
                )
            with closing(open_sealed_log(str(restored))) as log:
                damage = next(log.damages(0, chain_start(manifest.log)), None)
        except TwofoldError as error:
            return counts, str(error)
    if damage is not None:
        return counts, damage.message
    damaged = damage_of_read_models(folder, manifest)
    return counts, damaged and f"The log is right, but not the copy of the read models. {damaged}"


def _prepared_read_models(
    stack: ExitStack, folder: Path, manifest: Manifest, order: RestoreOrder
) -> ReplacedFile | None:
    """The read database of a backup, copied beside the one that it replaces."""
    if order.read_models is None:
        return None
    if manifest.read_models is None:
        raise WiringError("This backup has no read models. Leave out --read-models-to: they are rebuilt from the log.")
    source = folder / manifest.read_models.file
    file = stack.enter_context(ReplacedFile(order.read_models))
    shutil.copyfile(source, file.new)
    file.new.chmod(0o600)
    return file


async def _present(log: WriteStore | None, manifest: Manifest, content: BackupContent) -> _Present:
    if log is None:
        return _Present(0, 0, None)
    head = (await log.read(NO_EVENTS)).head
    name = log.identity.log
    if name != manifest.log:
        return _Present(head, 0, LostEvents(name, 1, head) if head else None)
    both = min(head, manifest.position)
    common = await last_common_position(partial(digest_at, log), partial(_digest_in, content), both)
    lost = LostEvents(name, common + 1, head) if common < head else None
    return _Present(head, log.identity.epoch, lost)


async def _digest_in(content: BackupContent, position: Position) -> str:
    events = await content.events(position - 1, 1)
    return chain_digest(events[0].chain) if events else ""


def _refuse_loss(target: Target, present: _Present, manifest: Manifest, order: RestoreOrder) -> None:
    where = shown(order.write_store)
    if target.problem is not None:
        raise WiringError(
            f"What is in {where} cannot be read, so it is unknown what would be lost: {target.problem} With --replace "
            "it is replaced, and kept beside the restored log."
        )
    if (lost := present.lost) is not None:
        which = f"the log {lost.log}" if lost.log != manifest.log else "the log"
        raise WiringError(
            f"{where} has {which} up to position {present.head:,}, and the backup goes up to {manifest.position:,}. "
            f"{lost.count:,} events would be lost (positions {lost.first:,} to {lost.last:,}). Restore to another "
            "place, or add --replace to accept that."
        )


def _next_identity(manifest: Manifest, present_epoch: int) -> LogIdentity:
    """The identity of the restored log: an epoch later than any that callers may know, which begins where it ends."""
    epoch = max(manifest.epoch, present_epoch) + 1
    return LogIdentity(manifest.log, epoch, (*manifest.forks, (epoch, manifest.position)))


async def _fill(
    target: Target,
    source: tuple[Manifest, BackupContent],
    identity: LogIdentity,
    expected: Position,
    pace: Pace,
) -> CopyCounts:
    manifest, content = source
    end = manifest.position, bytes.fromhex(manifest.chain)
    async with target.filling(identity, expected) as copy:
        try:
            return await copy_all(content, copy, end, pace)
        except WiringError as error:
            raise DamagedBackup(f"The backup is damaged. {error}") from error

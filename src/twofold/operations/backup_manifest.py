"""The manifest of a backup: which history it holds, in which files, and the digest of each."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from twofold.domain.events import Position
from twofold.errors import Unavailable, WiringError
from twofold.operations.durable_files import put_in_place, refuse_other_than_file, sync
from twofold.sqlite_lock import create_private
from twofold.write_store.port import LogIdentity

FORMAT = 1
NAME = "manifest.json"
LARGEST = 16_777_216
"""Bytes of a manifest at most."""

_Number = Annotated[int, Meta(ge=0, le=2**62)]
_Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# Nothing but these names is ever opened: no folder can be in them.
_PartName = Annotated[str, Meta(pattern=r"\Alog-[1-9][0-9]{0,8}\.db\Z")]
_CopyName = Annotated[str, Meta(pattern=r"\Aviews-[1-9][0-9]{0,8}\.db\Z")]


class DamagedBackup(WiringError):
    """A backup is not what its manifest says, or the manifest makes no sense. The message names the file."""


class BackupPart(Struct, frozen=True, forbid_unknown_fields=True):
    """A log file with the events after one position, up to another, and the state of the log there.

    `chain` is the chain at `position`, `schema` the version of the schema of the file, `taken_at` a time in UTC.
    """

    file: _PartName
    after: _Number
    position: _Number
    chain: _Digest
    schema: _Number
    bytes: _Number
    sha256: _Digest
    taken_at: str


class ReadModelsCopy(Struct, frozen=True, forbid_unknown_fields=True):
    """A copy of a read database, as it was at a position of the log, or a little before."""

    file: _CopyName
    bytes: _Number
    sha256: _Digest
    taken_at: str


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup holds: the log up to `position`, in parts that follow one another. `twofold` is a version."""

    format: int
    twofold: str
    log: str
    epoch: _Number
    forks: tuple[tuple[_Number, _Number], ...]
    position: _Number
    chain: _Digest
    parts: Annotated[tuple[BackupPart, ...], Meta(min_length=1)]
    read_models: ReadModelsCopy | None = None

    @property
    def identity(self) -> LogIdentity:
        """Which history it is."""
        return LogIdentity(self.log, self.epoch, self.forks)

    @property
    def files(self) -> tuple[BackupPart | ReadModelsCopy, ...]:
        """All files, each once."""
        return (*self.parts, self.read_models) if self.read_models else self.parts


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder, which makes sense by itself. DamagedBackup where it does not.

    Unavailable where there is none.
    """
    path = folder / NAME
    refuse_other_than_file(path)
    if path.stat().st_size > LARGEST:
        raise DamagedBackup(f"{path} is larger than {LARGEST:,} bytes. It is not a manifest.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}.") from error
    return parsed(content, str(path))


def parsed(content: bytes, name: str) -> Manifest:
    """The manifest of these bytes. DamagedBackup where it makes no sense; `name` is what to call it."""
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedBackup(f"{name} is not the manifest of a backup: {error}.") from error
    if manifest.format != FORMAT:
        raise DamagedBackup(
            f"{name} has format {manifest.format}, and this version of Twofold reads format {FORMAT}. Use Twofold "
            f"{manifest.twofold}."
        )
    at: Position = 0
    for part in manifest.parts:
        if part.after != at or part.position < at:
            raise DamagedBackup(f"{name} is damaged: the part {part.file} does not begin after position {at}.")
        at = part.position
    if (at, manifest.parts[-1].chain) != (manifest.position, manifest.chain):
        raise DamagedBackup(f"{name} is damaged: its parts do not end at position {manifest.position}.")
    if len({part.file for part in manifest.parts}) != len(manifest.parts):
        raise DamagedBackup(f"{name} is damaged: it names a file twice.")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put a manifest in place: from then on the backup is what it says."""
    partial = folder / f"{NAME}.partial"
    partial.unlink(missing_ok=True)
    create_private(str(partial))
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    sync(partial)
    put_in_place(partial, folder / NAME)

"""A backup that was changed, by accident or on purpose, is refused before anything is written at the target."""

import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.operations.backup_helpers import backed_up, filled_log, names_and_bytes, restored
from twofold import Unavailable, WiringError
from twofold.errors import TwofoldError
from twofold.operations.restore import check
from twofold.world import RealWorld

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A backup in two parts, with read models."""
    url = f"sqlite:///{tmp_path}/log.db"
    await filled_log(url, 20, read_store=f"sqlite:///{tmp_path}/views.db")
    await backed_up(url, tmp_path / "set", read_models=f"{tmp_path}/views.db")
    await filled_log(url, 20, first=21)
    await backed_up(url, tmp_path / "set")
    return tmp_path / "set"


async def refuses(source: Path, reason: str, error: type[TwofoldError] = WiringError) -> None:
    """AssertionError unless a restore refuses a backup for a reason, and writes nothing."""
    target = source.parent / "target"
    target.mkdir()
    with pytest.raises(error, match=reason):
        await restored(source, f"sqlite:///{target}/log.db", replace=True)
    assert {path.name for path in target.iterdir()} <= {"log.db.lock"}


def changed(folder: Path, change: Change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name",
    ["../log.db", "/etc/passwd", "log-1.db/../../x", "log-01.db", "log-1.db\n", "log-1.db\0", "views-1.db", ".", ""],
)
async def test_a_manifest_names_only_files_of_a_backup(folder: Path, name: str) -> None:
    changed(folder, lambda manifest: manifest["parts"][0].update(file=name))
    await refuses(folder, "is not the manifest of a backup")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(position=m["position"] + 1), "its parts do not end at position 41"),
        (lambda m: m.update(chain="0" * 64), "its parts do not end at position 40"),
        (lambda m: m.update(epoch=7), "its epochs are not those of its last part"),
        (lambda m: m.update(forks=[[2, 3]]), "its epochs are not those of its last part"),
        (lambda m: m.update(log="main-ffffffff"), "is another log, or ends elsewhere"),
        (lambda m: m.update(format=2), "has format 2, and this version of Twofold reads format 1"),
        (lambda m: m.update(more=1), "unknown field"),
        (lambda m: m.update(parts=[]), "not the manifest"),
        (lambda m: m["parts"].reverse(), "does not begin after position 0"),
        (lambda m: m["parts"].pop(0), "does not begin after position 0"),
        (lambda m: m["parts"][1].update(file="log-1.db"), "names a file twice"),
        (lambda m: m["parts"][1].update(bytes=10**15), "its manifest says 1,000,000,000,000,000"),
        (lambda m: m["parts"][1].update(bytes=-1), "not the manifest"),
        (lambda m: m["parts"][1].update(sha256="0" * 64), "its SHA-256 is not that of the manifest"),
    ],
)
async def test_a_manifest_that_does_not_fit_its_files_is_refused(folder: Path, change: Change, reason: str) -> None:
    changed(folder, change)
    await refuses(folder, reason)


async def test_a_link_in_a_backup_is_not_followed(folder: Path, tmp_path: Path) -> None:
    for name in ("log-2.db", "manifest.json"):
        copy = tmp_path / f"with-{name}"
        shutil.copytree(folder, copy)
        shutil.move(copy / name, tmp_path / name)
        (copy / name).symlink_to(tmp_path / name)
        with pytest.raises(WiringError, match="is not a regular file"):
            await restored(copy, f"sqlite:///{tmp_path}/new.db")
    os.mkfifo(tmp_path / "pipe")
    (folder / "log-1.db").unlink()
    os.rename(tmp_path / "pipe", folder / "log-1.db")
    await refuses(folder, "is not a regular file")


async def test_a_manifest_of_any_size_is_not_read_into_memory(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(100_000_000_000)
    await refuses(folder, r"is larger than 16,777,216 bytes")


@pytest.mark.parametrize("name", ["log-1.db", "log-2.db", "manifest.json"])
async def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    await refuses(folder, f"{name} cannot be read", (Unavailable if name == "manifest.json" else WiringError))


async def test_a_copy_of_read_models_that_is_missing_or_another_one_is_named(folder: Path) -> None:
    """The log is restored without it: see `test_restore.py`."""
    (folder / "views-1.db").rename(folder / "elsewhere")
    assert "views-1.db cannot be read" in str((await check(folder, RealWorld())).problem)
    (folder / "elsewhere").rename(folder / "views-1.db")
    changed(folder, lambda m: m["read_models"].update(sha256="0" * 64))
    assert "its SHA-256 is not that of the manifest" in str((await check(folder, RealWorld())).problem)


async def test_a_part_that_was_forged_with_its_digest_does_not_fit_the_chain(folder: Path) -> None:
    """Whoever can write the folder can write the manifest too. The chain shows a changed event all the same."""
    with closing(sqlite3.connect(folder / "log-1.db")) as connection, connection:
        connection.execute("update events set payload = cast(replace(payload, 'a', 'b') as blob) where position = 7")
    signed_again(folder)
    result = await check(folder, RealWorld())
    assert "The event at position 7 is missing or damaged" in str(result.problem)
    await refuses(folder, "The event at position 7 is missing or damaged")


async def test_a_part_with_triggers_or_views_is_refused(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "log-2.db")) as connection, connection:
        connection.execute("create view surprise as select 1")
    signed_again(folder)
    await refuses(folder, "it has views or triggers")


def signed_again(folder: Path) -> None:
    def sign(manifest: dict[str, Any]) -> None:
        for part in manifest["parts"]:
            content = (folder / part["file"]).read_bytes()
            part.update(bytes=len(content), sha256=sha256(content).hexdigest())

    changed(folder, sign)


async def test_every_changed_or_missing_byte_of_a_file_is_found(folder: Path, tmp_path: Path) -> None:
    random = Random(11)
    for name, content in names_and_bytes(folder).items():
        for _ in range(0 if name == "lock" else 10):
            at = random.randrange(len(content))
            cut, flip = content[:at], bytearray(content)
            flip[at] ^= 1 << random.randrange(8)
            for damaged in (cut, bytes(flip)):
                (folder / name).write_bytes(damaged)
                if name == "manifest.json" and _means_the_same(damaged, content):
                    continue
                if name == "views-1.db":
                    assert (await check(folder, RealWorld())).problem is not None
                    continue
                with pytest.raises((WiringError, Unavailable)):
                    await restored(folder, f"sqlite:///{tmp_path}/new.db")
        (folder / name).write_bytes(content)
    assert not (tmp_path / "new.db").exists()
    assert (await check(folder, RealWorld())).problem is None


def _means_the_same(damaged: bytes, content: bytes) -> bool:
    """Whether a changed manifest differs only in what no log depends on: times, versions, the copy of read models."""
    try:
        after, before = json.loads(damaged), json.loads(content)
    except ValueError:
        return False
    for manifest in (after, before):
        manifest.pop("twofold", None)
        if manifest.get("read_models"):
            manifest["read_models"] = {}
        for part in (*manifest.get("parts", ()), manifest.get("read_models") or {}):
            part.pop("taken_at", None)
            part.pop("schema", None)
    return bool(after == before)


def archive_of(folder: Path, *extra: tuple[tarfile.TarInfo, bytes], names: tuple[str, ...]) -> Path:
    archive = folder.parent / "hostile.tar"
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for entry, content in extra:
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))
        for name in names:
            tar.add(folder / name, name)
    return archive


def link(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry


@pytest.mark.parametrize(
    ("extra", "names", "reason"),
    [
        ([(link("manifest.json"), b"")], (), "something else than regular files"),
        ([(tarfile.TarInfo("../manifest.json"), b"{}")], (), "does not begin with manifest.json"),
        ([], ("log-1.db", "manifest.json"), "does not begin with manifest.json"),
        ([], ("manifest.json", "log-2.db", "log-1.db", "views-1.db"), "another file where its manifest has log-1.db"),
        ([], ("manifest.json", "log-1.db"), "is not the archive of a backup|ends early|another file"),
        ([], (), "is not the archive of a backup|does not begin"),
    ],
)
async def test_an_archive_has_the_files_of_its_manifest_and_no_others(
    folder: Path, extra: list[tuple[tarfile.TarInfo, bytes]], names: tuple[str, ...], reason: str
) -> None:
    await refuses(archive_of(folder, *extra, names=names), reason)


async def test_an_archive_that_would_fill_the_disk_is_not_unpacked(folder: Path) -> None:
    changed(folder, lambda manifest: manifest["parts"][0].update(bytes=2**60))
    await refuses(archive_of(folder, names=("manifest.json",)), r"bytes are needed in .*Make room there", Unavailable)

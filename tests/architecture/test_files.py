"""Nothing in the repository names a package registry or a path of somebody's machine, and no lock holds an address."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.architecture.rules import ROOT, addresses, registries_and_machine_paths

LOCKS = sorted(ROOT.glob("requirements*.lock.txt"))


def files_of_the_project() -> Iterator[tuple[str, str]]:
    """What git keeps or would keep, as (path, text)."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in sorted(filter(None, listed.stdout.split("\0"))):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode("utf-8")


def test_no_file_names_a_registry_or_a_path_of_a_machine() -> None:
    files = list(files_of_the_project())
    assert len(files) > 20
    assert [breach for path, text in files for breach in registries_and_machine_paths(path, text)] == []


def test_no_lock_holds_an_address() -> None:
    assert LOCKS
    assert [breach for lock in LOCKS for breach in addresses(lock.name, lock.read_text())] == []


def test_every_line_of_a_lock_that_pins_is_followed_by_a_hash() -> None:
    for lock in LOCKS:
        pins = lock.read_text().replace("\\\n", " ").splitlines()
        assert [pin for pin in pins if "==" in pin and "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize(
    "text",
    ["see https://pypi" + ".org/simple", "files.python" + "hosted.org", "cd /" + "work/main", "'/" + "home/ann/x'"],
)
def test_a_registry_or_a_path_of_a_machine_would_be_found(text: str) -> None:
    assert registries_and_machine_paths("a.md", text) != []


@pytest.mark.parametrize("text", ["POST /commands/place-order", "docs/work/plan", "https://example.com/home/page"])
def test_other_paths_are_left_alone(text: str) -> None:
    assert registries_and_machine_paths("a.md", text) == []


@pytest.mark.parametrize("text", ["a @ https:" + "//example.com/a.whl", "--index-" + "url x", "--find-" + "links y"])
def test_an_address_in_a_lock_would_be_found(text: str) -> None:
    assert addresses("requirements.lock.txt", text) != []

"""Rules about every file: no package registry, no path of a machine, no address in a lock, plain words, short tests."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.architecture.rules import LONGEST_FILE, ROOT, addresses, quaint_words, registries_and_machine_paths

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


# Tests are not read by users; the others hold words of other authors.
MAY_HOLD_QUAINT_WORDS = ("tests/", "LICENSE", "requirements")


def test_what_people_read_is_plain_english() -> None:
    files = [file for file in files_of_the_project() if not file[0].startswith(MAY_HOLD_QUAINT_WORDS)]
    assert [breach for path, text in files for breach in quaint_words(path, text)] == []


@pytest.mark.parametrize(
    "text", ["In charge of rows.", "Whoever reads", "# it is set\n# aside", "> in\n> vain", "told(error)", "a wish"]
)
def test_a_quaint_word_would_be_found(text: str) -> None:
    assert quaint_words("a.md", text) != []


@pytest.mark.parametrize("text", ["a recommendation", "a toolder", "setting asides", "wishbone"])
def test_other_words_are_left_alone(text: str) -> None:
    assert quaint_words("a.md", text) == []


def test_no_test_file_is_longer_than_a_module() -> None:
    tests = [
        (path, text) for path, text in files_of_the_project() if path.startswith("tests/") and path.endswith(".py")
    ]
    assert [path for path, text in tests if len(text.splitlines()) > LONGEST_FILE] == []


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

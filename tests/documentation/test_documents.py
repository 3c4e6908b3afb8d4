"""The code blocks of the tutorial and the how-to pages run, and their outputs match."""

import re
from pathlib import Path

import pytest

from tests.documentation.code_block_helpers import ROOT, blocks
from tests.documentation.document_runner import Reader

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "how-to").glob("*.md"))
HAS_BLOCKS = re.compile(r"^```(python|pycon)$", re.MULTILINE)
RUN = [page for page in PAGES if HAS_BLOCKS.search((ROOT / page).read_text("utf-8"))]


async def test_the_tutorial_runs_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader("docs/tutorial.md", tmp_path, monkeypatch)
    await reader.follow()
    assert reader.shown > 10


@pytest.mark.parametrize("page", RUN)
async def test_a_how_to_page_runs_as_shown(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("README.md", "python")
    (tmp_path / "orders.py").write_text(example, "utf-8")
    reader = Reader(page, tmp_path, monkeypatch)
    await reader.follow()
    assert reader.shown


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```pycon\n>>> 1 + 1\n3\n```\n", "another value"),
        ("```pycon\n>>> 1 / 0\n```\n", "an exception that is not shown"),
        ("```pycon\n>>> print('x')\nTraceback (most recent call last):\nValueError: x\n```\n", "no exception"),
        ("```python\nx = 1\n```\n", "a file without a name"),
        ("```console\n$ twofold --version\ntwofold, version 99\n```\n", "another output"),
    ],
)
async def test_a_document_with_a_wrong_output_fails(
    text: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    with pytest.raises((AssertionError, ZeroDivisionError)):
        await Reader(str(page), tmp_path, monkeypatch).follow()
        pytest.fail(f"{wrong} was not noticed")

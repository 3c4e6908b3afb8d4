"""Every page can be reached, every link has a target, every decision is listed, and terms are those of the glossary."""

import re
from pathlib import Path

import pytest

from tests.documentation.code_block_helpers import ROOT
from twofold import Settings
from twofold.settings_sources import CLIENT_VARIABLES, SERVER_VARIABLES

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
CLI = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
PARTS = ("Context", "Decision", "Consequences")
OTHER_WORDS = {
    "aggregate root": "consistency boundary",
    "event handler": "follower, projection or policy",
    "message bus": "(there is none)",
    "event bus": "(there is none)",
    "sequence number": "position",
    "dead letter": "parked key",
    "dead-letter": "parked key",
    "offset": "position",
    "subscriber": "follower",
    "stream id": "tag",
    "denormali": "read model",
}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """The text of a page outside of code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def code(page: Path) -> str:
    """The code of a page, line by line."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`[^`\n]+`", text)])


def links(page: Path) -> list[str]:
    """The relative links of a page."""
    found = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_broken(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return not target.exists() or (bool(anchor) and anchor not in anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_of_a_page_has_a_target(page: Path) -> None:
    assert [link for link in links(page) if is_broken(page, link)] == []


def test_a_link_that_is_broken_would_be_found() -> None:
    readme = ROOT / "README.md"
    assert is_broken(readme, "docs/nothing.md")
    assert is_broken(readme, "docs/glossary.md#nothing")
    assert not is_broken(readme, "docs/glossary.md#glossary")


def test_every_page_of_the_documentation_can_be_reached_from_the_readme() -> None:
    reached, ahead = set[Path](), {ROOT / "README.md"}
    while ahead:
        page = ahead.pop()
        reached.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        ahead |= {target for target in targets if target.suffix == ".md" and target.exists()} - reached
    assert [name(page) for page in ROOT.glob("docs/**/*.md") if page not in reached] == []


@pytest.mark.parametrize("page", DECISIONS, ids=name)
def test_a_decision_has_its_parts_and_is_listed(page: Path) -> None:
    text = page.read_text("utf-8")
    found = re.findall(rf"^(?:## |\*\*)({'|'.join(PARTS)})\b", text, re.MULTILINE)
    assert tuple(found) == PARTS
    (number,) = re.findall(r"\A# (\d+)\. ", text)
    assert page.name.startswith(f"{int(number):04}-")
    listed = (ROOT / "docs" / "decisions" / "README.md").read_text("utf-8")
    assert re.search(rf"^{number}\. \[.+\]\({re.escape(page.name)}\)$", listed, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_uses_the_words_of_the_glossary(page: Path) -> None:
    text = prose(page).lower()
    found = {word: instead for word, instead in OTHER_WORDS.items() if re.search(rf"\b{word}", text)}
    assert found == {}, "use the terms of the glossary"


def test_every_option_that_a_page_names_in_code_is_a_setting_or_an_option() -> None:
    known = set(re.findall(r"`(\w+)`", (ROOT / "docs/reference/settings.md").read_text("utf-8")))
    known |= set(re.findall(r"`(\w+)`", (ROOT / "docs/reference/http.md").read_text("utf-8")))
    known |= set(re.findall(r"`(\w+)[`(=]", (ROOT / "docs/reference/names.md").read_text("utf-8")))
    suffixes = "_seconds|_events|_commands|_bytes|_retries|_days|_folds"
    named = {
        (name(page), word) for page in PAGES for word in re.findall(rf"`(\w+(?:{suffixes}))`", page.read_text("utf-8"))
    }
    assert len(named) > 20
    assert sorted((page, word) for page, word in named if word not in known) == []


@pytest.mark.parametrize("page", [*DECISIONS, *sorted((ROOT / "docs" / "explanation").glob("*.md"))], ids=name)
def test_a_path_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"`([a-z_]+/[\w./]*)`", page.read_text("utf-8"))
    places = {path: [ROOT / path, ROOT / "src" / "twofold" / path] for path in named if not path.startswith("data/")}
    assert [path for path, there in places.items() if not any(place.exists() for place in there)] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_an_environment_variable_that_a_page_names_is_a_setting(page: Path) -> None:
    named = set(re.findall(r"TWOFOLD_([A-Z_]+)", page.read_text("utf-8")))
    known = {*Settings.__struct_fields__, *SERVER_VARIABLES, *CLIENT_VARIABLES}
    assert sorted(name for name in named if name.lower() not in known) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_that_a_page_names_and_its_options_are_documented_in_the_reference(page: Path) -> None:
    for command, rest in re.findall(r"(?<!from )\btwofold ([a-z]+)((?: [^\s`]+)*)", code(page)):
        section = re.search(rf"^## twofold {command}\n(.*?)(?=^## |\Z)", CLI, re.DOTALL | re.MULTILINE)
        assert section is not None, f"there is no command '{command}'"
        for option in re.findall(r"--[\w-]+", rest):
            assert option == "--help" or f"`{option}" in section[1], f"{command} has no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:^|`|\$ )make ([a-z]\w*)", code(page), re.MULTILINE)) <= targets

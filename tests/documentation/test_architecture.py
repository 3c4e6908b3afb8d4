"""ARCHITECTURE.md names only paths, classes and functions that exist."""

import ast
import re
from functools import cache

import pytest

from tests.documentation.code_block_helpers import ROOT

TEXT = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
SOURCE = ROOT / "src" / "twofold"
PATHS = sorted(set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", TEXT)))
CALLS = sorted(set(re.findall(r"`([A-Z]\w+)\.(\w+)`", TEXT)))
NAMES = sorted(set(re.findall(r"`([A-Z]\w+)`", TEXT)))


@cache
def definitions() -> dict[str, set[str]]:
    """Every class of the package with the names it defines."""
    classes: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                functions = (ast.FunctionDef, ast.AsyncFunctionDef)
                classes.setdefault(node.name, set()).update(n.name for n in node.body if isinstance(n, functions))
    return classes


def test_the_map_names_paths_and_functions() -> None:
    assert len(PATHS) > 20
    assert len(CALLS) > 10


@pytest.mark.parametrize("path", PATHS)
def test_a_path_of_the_map_exists(path: str) -> None:
    places = [ROOT / path, SOURCE / path, *SOURCE.glob(f"*/{path}")]
    assert any(place.exists() for place in places), f"{path} is not in the project"


@pytest.mark.parametrize("path", sorted(p.name for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"))
def test_every_folder_is_on_the_map(path: str) -> None:
    assert f"`{path}/`" in TEXT


@pytest.mark.parametrize(("owner", "name"), CALLS)
def test_a_function_of_a_walk_exists(owner: str, name: str) -> None:
    assert name in definitions()[owner]


@pytest.mark.parametrize("name", NAMES)
def test_a_class_of_a_walk_exists(name: str) -> None:
    assert name in definitions()

"""The digest of code changes with everything that the code reaches, and with nothing else."""

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from twofold.codec.code_digest import UnknownCode, code_digest

RATES = """
from enum import Enum

FACTOR = 2

class Kind(Enum):
    GOOD = "good"
    BAD = "bad"

def scaled(cents):
    return cents * FACTOR

def never_called():
    return 1
"""

MODEL = """
from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import msgspec
import rates
from rates import Kind

LIMITS = {"one": 1, "two": (1, 2)}
NAMES = frozenset({"ann", "bob", "eve"})
PATTERN = re.compile("a+")

def logged(function):
    extra = 10
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)[0], extra
    return wrapper

class Price(NamedTuple):
    cents: int
    currency: str = "EUR"

class Paid(msgspec.Struct, frozen=True):
    price: Price
    kind: Kind = Kind.GOOD

    def total(self):
        return self.price.cents + 1

class Base:
    def sign(self):
        return -1

@dataclass(frozen=True)
class Line(Base):
    name: str = "line"
    parts: list[int] = field(default_factory=list)

    def __post_init__(self):
        assert self.name

@logged
def fee(cents):
    return [cents for _ in range(1)]

class State(msgspec.Struct, frozen=True):
    cents: Annotated[int, msgspec.Meta(ge=0)] = 0
    lines: tuple[Line, ...] = ()

    def evolve(self, event: Paid) -> State:
        if event.kind is Kind.BAD or "x" in NAMES or PATTERN.match("b"):
            return self
        # Round down.
        lowest = min(LIMITS.values(), key=lambda limit: 3)
        return State(self.cents + rates.scaled(event.total()) + fee(1)[1], self.lines)
"""

CHANGES = {
    "a statement": ("return self\n", "return State()\n"),
    "a constant in a lambda": ("lambda limit: 3", "lambda limit: 4"),
    "a field": ("    cents: Annotated", "    other: int = 0\n    cents: Annotated"),
    "the order of fields": (
        'name: str = "line"\n    parts: list[int] = field(default_factory=list)',
        'parts: list[int] = field(default_factory=list)\n    name: str = "line"',
    ),
    "a default": ("] = 0", "] = 1"),
    "a default of a nested type": ('"EUR"', '"USD"'),
    "a factory of a default": ("default_factory=list", "default_factory=tuple"),
    "the type of a field": ("tuple[Line, ...]", "list[Line]"),
    "what a type is annotated with": ("ge=0", "ge=1"),
    "a method of an event": ("cents + 1", "cents + 2"),
    "a method of the base of a nested type": ("return -1", "return 1"),
    "a check of a nested type": ("assert self.name", "assert not self.name"),
    "a value of a table": ('"two": (1, 2)', '"two": (1, 3)'),
    "a member of a set": ('"eve"', '"eva"'),
    "a pattern": ('"a+"', '"a*"'),
    "what a decorator does": ("*arguments)[0]", "*arguments)[-1]"),
    "what a decorator holds": ("extra = 10", "extra = 11"),
    "a decorated function": ("range(1)", "range(2)"),
    "how a type is stored": ("class Paid(msgspec.Struct, frozen=True)", "class Paid(msgspec.Struct, array_like=True)"),
    "a function of another module": ("cents * FACTOR", "cents + FACTOR"),
    "a constant of another module": ("FACTOR = 2", "FACTOR = 3"),
    "a value of an enumeration": ('BAD = "bad"', 'BAD = "worse"'),
}
NO_CHANGES = {
    "nothing": ("", ""),
    "a comment": ("# Round down.", "# Round down, as always."),
    "a place": ("LIMITS =", "\n\n\nLIMITS ="),
    "a function that is not reached": ("def never_called():\n    return 1", "def never():\n    return 2"),
    "a constant that is not reached": ("FACTOR = 2", "FACTOR = 2\nOTHER = 3"),
}
UNKNOWN = {
    "an object": ("LIMITS = {", 'class Table:\n    pass\nLIMITS = {"t": Table(), '),
    "an import inside": ("        lowest", "        import json\n        lowest"),
    "evaluation": ("        lowest", '        eval("1")\n        lowest'),
    "a name that is made": ("        lowest", '        getattr(rates, "FACTOR")\n        lowest'),
    "the whole module": ("LIMITS = {", "LIMITS = {'m': rates, "),
    "a hint of what is not there": ("lines: tuple[Line, ...]", "lines: tuple[Missing, ...]"),
}
_numbers = itertools.count()


def digest_of(folder: Path, before: str = "", after: str = "") -> str:
    """The digest of the state in these modules, with one text of them replaced by another."""
    folder = folder / str(next(_numbers))
    folder.mkdir()
    assert before in RATES + MODEL
    for name, source in (("rates", RATES), ("model", MODEL)):
        (folder / f"{name}.py").write_text(source.replace(before, after) if before else source)
    known = {name: sys.modules.pop(name, None) for name in ("rates", "model")}
    try:
        for name in known:
            _load(folder, name)
        return code_digest(sys.modules["model"].State)
    finally:
        for name, module in known.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def _load(folder: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_changes_with(what: str, tmp_path: Path) -> None:
    assert digest_of(tmp_path, *CHANGES[what]) != digest_of(tmp_path)


@pytest.mark.parametrize("what", NO_CHANGES)
def test_the_digest_does_not_change_with(what: str, tmp_path: Path) -> None:
    assert digest_of(tmp_path, *NO_CHANGES[what]) == digest_of(tmp_path)


@pytest.mark.parametrize("what", UNKNOWN)
def test_code_is_unknown_that_reaches(what: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownCode):
        digest_of(tmp_path, *UNKNOWN[what])


def test_the_digest_is_the_same_in_every_process() -> None:
    show = "import examples.shop.orders as o; from twofold.codec.code_digest import code_digest as d; print(d(o.Order))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", show], env={"PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[2], check=True,
            capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(digests) == 1

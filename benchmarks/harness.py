"""Comparison of two contestants in one run: in turns, by medians, as ratios."""

import gc
import statistics
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from twofold.http.server import fast_runner, resting_modules

T = TypeVar("T")


class Result(msgspec.Struct, frozen=True):
    """One comparison. `ratio`, ours over the reference, must be at least `must`; or at most, where `less` is better."""

    measure: str
    ours: float
    reference: float
    against: str
    unit: str
    must: float | None = None
    ambition: float | None = None
    less: bool = False
    spread: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.reference

    @property
    def verdict(self) -> str:
        if self.must is None:
            return ""
        better = (lambda bar: self.ratio <= bar) if self.less else (lambda bar: self.ratio >= bar)
        if self.ambition is not None and better(self.ambition):
            return "ambition"
        return "must" if better(self.must) else "MISSED"


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, on the event loop and under the garbage collector that `twofold serve` runs with."""
    with resting_modules(), fast_runner() as runner:
        return runner.run(work)


Contestant = Callable[[Path], float]


def compare(rounds: int, **contestants: Contestant) -> dict[str, list[float]]:
    """Figures of every contestant, each round in turn, each in an empty folder."""
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            gc.collect()
            with tempfile.TemporaryDirectory() as folder:
                figures[name].append(run(Path(folder)))
    return figures


def result(
    measure: str,
    figures: dict[str, list[float]],
    ours: str,
    against: str,
    unit: str,
    *,
    must: float | None = None,
    ambition: float | None = None,
    less: bool = False,
) -> Result:
    """The medians of two contestants, and how far the ratio of single rounds is apart."""
    ratios = [a / b for a, b in zip(figures[ours], figures[against], strict=True)]
    spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
    mine, theirs = statistics.median(figures[ours]), statistics.median(figures[against])
    return Result(measure, mine, theirs, against, unit, must, ambition, less, spread)


def show(results: list[Result]) -> None:
    """A table of results on standard output."""
    table = Table(title="ours against a reference, in one run")
    for column in ("measure", "ours", "reference", "against", "ratio", "rounds", "must", "ambition", ""):
        table.add_column(column, justify="left" if column in ("measure", "against", "") else "right")
    for each in results:
        sign = "≤" if each.less else "≥"
        bars = [f"{sign} {bar:g}" if bar is not None else "" for bar in (each.must, each.ambition)]
        figures = [
            f"{each.ours:,.4g} {each.unit}",
            f"{each.reference:,.4g} {each.unit}",
            each.against.replace("_", " "),
        ]
        table.add_row(each.measure, *figures, f"{each.ratio:.2f}", each.spread, *bars, each.verdict)
    Console(width=170).print(table)

"""In charge of showing how long work goes on: a bar on a terminal, a line now and then elsewhere, never on stdout."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from twofold.cli.output import printable
from twofold.world import World

_STEPS = 10
_LONGEST = 200


class Bars:
    """Progress of several pieces of work, each told to `come` by its label. `unit` is what is counted: events."""

    def __init__(self, labels: Sequence[str], unit: str, world: World) -> None:
        self._labels = labels
        self._unit = unit
        self._world = world
        self._began = 0.0
        self._first: dict[str, int] = {}
        self._told: dict[str, int] = {}
        self._failing: dict[str, str] = {}
        self._tasks: dict[str, TaskID] = {}
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Count(),
            _Rate(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=5.0,
        )

    def __enter__(self) -> Self:
        self._began = self._world.monotonic()
        self._progress.start()
        self._tasks = {label: self._progress.add_task(label, total=None, note="") for label in self._labels}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def come(self, label: str, done: int, total: int, note: str = "", error: str = "") -> None:
        """So many of so many are done. `error` is what keeps it from going on."""
        task = self._tasks[label]
        error = _line(error)
        if label not in self._first:
            self._first[label] = done
            # What an earlier run did is no part of this run's rate.
            self._progress.reset(task, total=total, completed=done, note=note)
        if not self._progress.disable:
            self._progress.update(task, total=total, completed=done, note=", ".join(filter(None, [note, error])))
            return
        if error and error != self._failing.get(label):
            click.echo(f"{label}: {error}", err=True)
        self._failing[label] = error
        if (step := _STEPS * done // max(1, total)) > self._told.get(label, -1):
            self._told[label] = step
            rate = (done - self._first[label]) / max(1e-9, self._world.monotonic() - self._began)
            words = [f"{label}: {done:,} of {total:,} {self._unit}", f"{rate:,.0f}/s" if rate else "", note]
            click.echo(", ".join(filter(None, words)), err=True)


class Bar(Bars):
    """Progress of one piece of work, told to `reached`. `unit` is what is counted: orders, events."""

    def __init__(self, label: str, unit: str, world: World) -> None:
        super().__init__([label], unit, world)
        self._label = label

    def reached(self, done: int, total: int, note: str = "") -> None:
        """So many of so many are done."""
        self.come(self._label, done, total, note)


def _line(text: str) -> str:
    """What has room behind a bar, and cannot drive a terminal."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


class _Count(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{int(task.completed):,} of {int(task.total):,}")


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._unit}/s")

"""Progress on standard error: bars on a terminal, elsewhere a line for every tenth of the work.

Where it is not known how much there is, a line follows whenever the amount has doubled.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
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
    """Progress of several tasks, each with a label. `units` names by label what is counted, for example events."""

    def __init__(self, units: Mapping[str, str], world: World) -> None:
        self._units = units
        self._world = world
        self._start: dict[str, float] = {}
        self._first: dict[str, int] = {}
        self._steps: dict[str, int] = {}
        self._errors: dict[str, str] = {}
        self._tasks: dict[str, TaskID] = {}
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _TaskColumn(_count),
            _TaskColumn(_rate),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=5.0,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        self._tasks = {
            label: self._progress.add_task(label, start=False, visible=False, total=None, note="", unit=unit)
            for label, unit in self._units.items()
        }
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, label: str, done: int, total: int | None = None, note: str = "", error: str = "") -> None:
        """Set how much of the total (None: it is not known) is done. `error` says why a task makes no progress."""
        task = self._tasks[label]
        error = _line(error)
        if label not in self._first:
            self._first[label] = done
            self._start[label] = self._world.monotonic()
            # The rate does not count what an earlier run did.
            self._progress.reset(task, total=total, completed=done, visible=True, note=note)
        if not self._progress.disable:
            self._progress.update(task, total=total, completed=done, note=", ".join(filter(None, [note, error])))
            return
        if error and error != self._errors.get(label):
            click.echo(f"{label}: {error}", err=True)
        self._errors[label] = error
        step = done.bit_length() if total is None else _STEPS * done // max(1, total)
        if step > self._steps.get(label, -1):
            self._steps[label] = step
            rate = (done - self._first[label]) / max(1e-9, self._world.monotonic() - self._start[label])
            of = "" if total is None else f" of {total:,}"
            parts = [f"{label}: {done:,}{of} {self._units[label]}", f"{rate:,.0f}/s" if rate else "", note]
            click.echo(", ".join(filter(None, parts)), err=True)


@contextmanager
def progress_bar(label: str, unit: str, world: World) -> Generator[Callable[..., None]]:
    """Progress of one task: a function of how much is done, of the total, and of a note."""
    with Bars({label: unit}, world) as bars:
        yield partial(bars.update, label)


def _line(text: str) -> str:
    """Text that fits behind a bar and cannot control a terminal."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


class _TaskColumn(ProgressColumn):
    """A column whose text is a function of the task."""

    def __init__(self, text: Callable[[Task], str]) -> None:
        super().__init__()
        self._text = text

    def render(self, task: Task) -> Text:
        return Text(self._text(task))


def _count(task: Task) -> str:
    return f"{int(task.completed):,}" if task.total is None else f"{int(task.completed):,} of {int(task.total):,}"


def _rate(task: Task) -> str:
    speed = task.finished_speed or task.speed
    return "" if speed is None else f"{speed:,.0f} {task.fields['unit']}/s"

"""In charge of showing how long work goes on: a bar on a terminal, a line now and then elsewhere, never on stdout."""

from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from twofold.world import World

_STEPS = 10


class Bar:
    """Progress of one piece of work, told to `reached`. `unit` is what is counted: orders, events."""

    def __init__(self, label: str, unit: str, world: World) -> None:
        self._label = label
        self._unit = unit
        self._world = world
        self._began = 0.0
        self._first: int | None = None
        self._told = -1
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Count(),
            _Rate(unit),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=5.0,
        )

    def __enter__(self) -> "Bar":
        self._began = self._world.monotonic()
        self._progress.start()
        self._task = self._progress.add_task(self._label, total=None, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def reached(self, done: int, total: int, note: str = "") -> None:
        """So many of so many are done."""
        if self._first is None:
            self._first = done
            # What an earlier run did is no part of this run's rate.
            self._progress.reset(self._task, total=total, completed=done, note=note)
        if not self._progress.disable:
            self._progress.update(self._task, total=total, completed=done, note=note)
        elif (step := _STEPS * done // max(1, total)) > self._told:
            self._told = step
            rate = (done - self._first) / max(1e-9, self._world.monotonic() - self._began)
            words = [f"{self._label}: {done:,} of {total:,} {self._unit}", f"{rate:,.0f}/s" if rate else "", note]
            click.echo(", ".join(filter(None, words)), err=True)


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

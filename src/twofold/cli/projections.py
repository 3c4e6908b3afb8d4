"""In charge of `twofold projections`: how far everything that follows the log has come, read from the two databases."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from twofold.app import App
from twofold.cli.outcome import Exit, columns, emit, printable
from twofold.cli.target import Number, json_option, load_app, refuse_memory, store_option, views_option
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.read_store.port import Parked, ReadStore
from twofold.settings import Settings
from twofold.status import PROBLEM_LAG_SECONDS, lag_of
from twofold.stores import open_read_store, open_write_store
from twofold.synchronization.reactor import policy_checkpoints
from twofold.world import RealWorld, World
from twofold.write_store.port import WriteStore

SAMPLE_SECONDS = 0.5
WATCH_SECONDS = 1.0

_HEADINGS = ["name", "kind", "checkpoint", "lag", "behind", "rate", "parked", ""]


class Standing(msgspec.Struct, frozen=True):
    """How far a follower has come. `lag` counts events, `lag_seconds` is the age of the oldest not taken, `rate` is
    events per second between two looks; `problem` is a sentence, None if it is healthy."""

    name: str
    kind: str
    generation: int | None
    position: Position
    lag: int
    lag_seconds: float
    rate: float
    parked: Sequence[Parked]
    problem: str | None


class Overview(msgspec.Struct, frozen=True):
    """All followers of one log."""

    log: str
    head: Position
    healthy: bool
    followers: list[Standing]


class _Seen(msgspec.Struct, frozen=True):
    """One look at one follower. `log` is empty where it has not begun."""

    kind: str
    generation: int | None
    position: Position
    log: str
    parked: tuple[Parked, ...] = ()


_Look = dict[str, _Seen]


@click.command
@click.argument("target", metavar="[MODULE:APP]", required=False)
@store_option
@views_option
@click.option(
    "--max-lag",
    type=Number(0),
    metavar="SECONDS",
    default=PROBLEM_LAG_SECONDS,
    show_default=True,
    help="Whoever is further behind is not healthy.",
)
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C (130).")
@json_option
def command(
    target: str | None, store: str | None, views: str | None, max_lag: float, watch: bool, as_json: bool
) -> int:
    """Show how far everything that follows the log is.

    For every projection and policy: checkpoint, lag, rate, and parked keys with their errors.

    Reads the two databases beside a running `serve`; the app's code is not needed. With MODULE:APP the stores are
    those of the app, and what it lists but never ran is shown too. Exits with 3 where something is parked, or further
    behind than --max-lag.
    """
    app = load_app(target, store=store, views=views) if target else None
    settings = app.settings if app else Settings.from_environment(store=store, views=views)
    refuse_memory(settings.store, "--store")
    refuse_memory(settings.views, "--views")
    return asyncio.run(_show(app, settings, max_lag, watch=watch, as_json=as_json))


async def _show(app: App | None, settings: Settings, max_lag: float, *, watch: bool, as_json: bool) -> int:
    world: World = RealWorld()
    store = await open_write_store(settings.store, settings, world, read_only=True)
    try:
        views = await open_read_store(settings.views, world, read_only=True)
        try:
            overviews = _overviews(app, store, views, world, max_lag)
            if watch:
                await _watch(overviews, as_json=as_json)
            overview = await anext(overviews)
        finally:
            await views.close()
    finally:
        await store.close()
    if as_json:
        emit(overview)
    else:
        click.echo("\n".join(_lines(overview)))
    return Exit.OK if overview.healthy else Exit.UNHEALTHY


async def _watch(overviews: AsyncIterator[Overview], *, as_json: bool) -> None:
    """Show one overview after another, until interrupted."""
    console = Console()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        async for overview in overviews:
            if as_json:
                emit(overview)
            elif console.is_terminal:
                live.update(Text("\n".join(_lines(overview)), no_wrap=True), refresh=True)
            else:
                click.echo("\n".join([*_lines(overview), ""]))


async def _overviews(
    app: App | None, store: WriteStore, views: ReadStore, world: World, max_lag: float
) -> AsyncIterator[Overview]:
    before, at = await _look(app, store, views), world.monotonic()
    pause = SAMPLE_SECONDS
    while True:
        await world.sleep(pause)
        now, then = await _look(app, store, views), world.monotonic()
        head = (await store.read(NO_EVENTS)).head
        standings: list[Standing] = []
        for name, seen in now.items():
            moved = seen.position - before.get(name, seen).position
            standings.append(await _judge(name, seen, moved / (then - at), store, head, world, max_lag))
        healthy = all(each.problem is None for each in standings)
        yield Overview(store.identity.log, head, healthy, standings)
        before, at, pause = now, then, WATCH_SECONDS


async def _look(app: App | None, store: WriteStore, views: ReadStore) -> _Look:
    seen: _Look = {}
    for each in await views.checkpoints():
        # The newest generation comes last, and is the one that answers.
        progress = each.progress
        seen[each.name] = _Seen("projection", each.generation, progress.position, progress.log, progress.parked)
    here = store.identity.stamp
    policies = {
        name: _Seen("policy", None, position, here, parked)
        for name, (position, parked) in (await policy_checkpoints(store)).items()
    }
    if app is None:
        return seen | policies
    absent = {name: _Seen("projection", model.generation, 0, "") for name, model in app.models.items()}
    ours = {name: seen[name] for name in seen if name in absent and seen[name].generation == absent[name].generation}
    missing = {name: _Seen("policy", None, 0, "") for name in app.wiring.policies}
    return absent | ours | missing | {name: policies[name] for name in policies if name in missing}


async def _judge(
    name: str, seen: _Seen, rate: float, store: WriteStore, head: Position, world: World, max_lag: float
) -> Standing:
    lag, seconds = await lag_of(store, seen.position, head, world)
    problem = None
    if seen.position and not store.identity.holds(seen.log, seen.position):
        problem = f"follows another log ({seen.log}); delete the read database, it is built anew"
    elif seen.parked:
        problem = f"{len(seen.parked)} parked: mend what fails and start the app again"
    elif seconds > max_lag:
        problem = "too far behind" if rate else "stands still"
    return Standing(
        name, seen.kind, seen.generation, seen.position, lag, round(seconds, 3), round(rate, 1), seen.parked, problem
    )


def _lines(overview: Overview) -> list[str]:
    rows = [_HEADINGS]
    for each in overview.followers:
        figures = [f"{each.position:,}", f"{each.lag:,}", f"{each.lag_seconds:,.1f} s", f"{each.rate:,.0f}/s"]
        rows.append([each.name, each.kind, *figures, f"{len(each.parked)}", each.problem or "ok"])
    lines = [f"log {overview.log}, head {overview.head:,}", ""]
    lines += columns(rows, right=frozenset({2, 3, 4, 5, 6})) if overview.followers else ["Nothing follows it."]
    for each in overview.followers:
        for parked in each.parked:
            behind = f" ({parked.waiting} more events wait behind it)" if parked.waiting else ""
            lines += ["", f"{each.name} set {parked.key} aside at position {parked.position}{behind}:"]
            lines.append(f"  {parked.error}")
    return [printable(line) for line in lines]

"""In charge of `twofold projections`: how far everything that follows the log has come, read from the two databases."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from twofold.app import App
from twofold.cli.app_loading import Number, json_option, load_app, refuse_memory, store_option, views_option
from twofold.cli.follower_reports import BuildStanding, FollowerReport, Overview, overviews
from twofold.cli.output import Exit, columns, emit, printable
from twofold.settings import Settings
from twofold.status import PROBLEM_LAG_SECONDS
from twofold.stores import open_read_store, open_write_store
from twofold.synchronization.cluster_state import OperatorAction, operator_actions
from twofold.world import RealWorld, World

RECENT = 20
_HEADINGS = ["name", "kind", "generation", "checkpoint", "lag", "behind", "rate", "parked", "owner", ""]
_FIGURES = frozenset(range(2, 8))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
@click.option("--acts", is_flag=True, help=f"Show the last {RECENT} things operators had done instead.")
@json_option
def command(
    target: str | None,
    write_store: str | None,
    read_store: str | None,
    max_lag: float,
    watch: bool,
    acts: bool,
    as_json: bool,
) -> int:
    """Show how far everything that follows the log is.

    For every projection and policy: generation, checkpoint, lag, rate, the node that follows for it (where several
    may), and parked keys with their errors; for every partition where there are several, and for generations that are
    being built or kept.

    Reads the two databases beside a running `serve`; the app's code is not needed. With MODULE:APP the stores are
    those of the app, and what it lists but never ran is shown too. Exits with 3 where something is parked, or further
    behind than --max-lag.
    """
    app = load_app(target, write_store=write_store, read_store=read_store) if target else None
    settings = app.settings if app else Settings.from_environment(write_store=write_store, read_store=read_store)
    refuse_memory(settings.write_store, "--write-store")
    refuse_memory(settings.read_store, "--read-store")
    if acts:
        return asyncio.run(_show_acts(settings, as_json=as_json))
    return asyncio.run(_show(app, settings, max_lag, watch=watch, as_json=as_json))


async def _show(app: App | None, settings: Settings, max_lag: float, *, watch: bool, as_json: bool) -> int:
    world: World = RealWorld()
    write_store = await open_write_store(settings.write_store, settings, world, read_only=True)
    try:
        read_store = await open_read_store(settings.read_store, world, read_only=True)
        try:
            looks = overviews(app, write_store, read_store, world, max_lag)
            if watch:
                await _watch(looks, as_json=as_json)
            overview = await anext(looks)
        finally:
            await read_store.close()
    finally:
        await write_store.close()
    if as_json:
        emit(overview)
    else:
        click.echo("\n".join(_lines(overview)))
    return Exit.OK if overview.healthy else Exit.UNHEALTHY


async def _watch(looks: AsyncIterator[Overview], *, as_json: bool) -> None:
    """Show one overview after another, until interrupted."""
    console = Console()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        async for overview in looks:
            if as_json:
                emit(overview)
            elif console.is_terminal:
                live.update(Text("\n".join(_lines(overview)), no_wrap=True), refresh=True)
            else:
                click.echo("\n".join([*_lines(overview), ""]))


async def _show_acts(settings: Settings, *, as_json: bool) -> int:
    write_store = await open_write_store(settings.write_store, settings, RealWorld(), read_only=True)
    try:
        recent = dict(list((await operator_actions(write_store)).items())[-RECENT:])
    finally:
        await write_store.close()
    if as_json:
        emit({"acts": [{"id": each, **msgspec.to_builtins(act)} for each, act in recent.items()]})
    else:
        click.echo("\n".join(_act_lines(recent)))
    return Exit.OK


def _act_lines(acts: Mapping[str, OperatorAction]) -> list[str]:
    if not acts:
        return ["Nothing was done on request so far."]
    rows = [["time (UTC)", "what", "name", "key or partition", "who", ""]]
    for act in acts.values():
        at = f"{_EPOCH + timedelta(microseconds=act.at):%Y-%m-%d %H:%M:%S}"
        said = act.outcome if act.done else f"not done: {act.outcome}"
        rows.append([at, act.what, act.name, act.key, act.actor or "", said])
    return [printable(line) for line in columns(rows)]


def _lines(overview: Overview) -> list[str]:
    rows = [_HEADINGS]
    for each in overview.followers:
        rows += _rows_of(each)
    rows += [_row_of_build(each) for each in overview.builds]
    # Nodes are noted only where there may be several.
    owners = any(row[8] for row in rows[1:])
    shown = rows if owners else [[*row[:8], row[9]] for row in rows]
    lines = [f"log {overview.log}, head {overview.head:,}", ""]
    lines += columns(shown, right=_FIGURES) if len(rows) > 1 else ["Nothing follows it."]
    for each in overview.followers:
        for parked in each.parked:
            behind = f" ({parked.waiting} more events wait behind it)" if parked.waiting else ""
            lines += ["", f"{each.name} set {parked.key} aside at position {parked.position}{behind}:"]
            lines.append(f"  {parked.error}")
    for build in overview.builds:
        if build.error is not None:
            lines += ["", f"{build.name}, generation {build.generation}:", f"  {build.error}"]
    return [printable(line) for line in lines]


def _rows_of(each: FollowerReport) -> list[list[str]]:
    figures = [f"{each.position:,}", f"{each.lag:,}", f"{each.lag_seconds:,.1f} s", f"{each.rate:,.0f}/s"]
    generation = "" if each.generation is None else f"{each.generation}"
    name = [each.name, each.kind, generation]
    rows = [[*name, *figures, f"{len(each.parked)}", each.owner or "", each.problem or "ok"]]
    if len(each.partitions) > 1:
        rows += [
            [
                f"  {part.partition}",
                "partition",
                "",
                f"{part.position:,}",
                f"{part.lag:,}",
                "",
                "",
                "",
                part.owner or "",
                "",
            ]
            for part in each.partitions
        ]
    return rows


def _row_of_build(each: BuildStanding) -> list[str]:
    said = {"building": "is being built", "standby": "is kept", "serving": f"serves version {each.version} of the code"}
    figures = [f"{each.position:,}", f"{each.lag:,}", "", f"{each.rate:,.0f}/s", f"{each.parked}"]
    return [each.name, "generation", f"{each.generation}", *figures, each.owner or "", said[each.state]]

"""`twofold projections`: how far all projections and policies are, read from the two stores."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from twofold.app import App
from twofold.cli.app_loading import Number, json_option, load_app_or_settings
from twofold.cli.follower_reports import BuildStanding, FollowerReport, Overview, overviews
from twofold.cli.output import Exit, columns, emit, printable
from twofold.cli.store_access import StoreUrls, opened_log, opened_stores, store_options
from twofold.settings import Settings
from twofold.status import PROBLEM_LAG_SECONDS
from twofold.synchronization.cluster_state import OperatorAction, operator_actions
from twofold.world import RealWorld, World

RECENT = 20
_HEADINGS = ["name", "kind", "generation", "checkpoint", "lag", "behind", "rate", "parked", "owner", ""]
_FIGURES = frozenset(range(2, 8))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@click.command
@click.argument("target", metavar="[MODULE:APP]", required=False)
@store_options
@click.option(
    "--max-lag",
    type=Number(0),
    metavar="SECONDS",
    default=PROBLEM_LAG_SECONDS,
    show_default=True,
    help="Report a follower as unhealthy if it is further behind.",
)
@click.option("--watch", is_flag=True, help="Refresh every second, until Ctrl-C (130).")
@click.option("--actions", is_flag=True, help=f"Show the last {RECENT} operator actions instead.")
@json_option
def command(target: str | None, urls: StoreUrls, max_lag: float, watch: bool, actions: bool, as_json: bool) -> int:
    """Show how far all projections and policies are.

    For each: generation, checkpoint, lag, rate, the node that follows it (where there may be several), and parked
    keys with their errors. Partitions have a line each where there are several, and so have generations that are
    being built or on standby.

    Reads both stores beside a running `serve`, without the code of the app. With MODULE:APP it uses the stores of the
    app, and also shows what the app lists but never ran. Exits with 3 if a key is parked, or a follower is further
    behind than --max-lag.
    """
    app, settings = load_app_or_settings(target, urls)
    if actions:
        return asyncio.run(_show_actions(settings, as_json=as_json))
    return asyncio.run(_show(app, settings, max_lag, watch=watch, as_json=as_json))


async def _show(app: App | None, settings: Settings, max_lag: float, *, watch: bool, as_json: bool) -> int:
    world: World = RealWorld()
    async with opened_stores(settings, world) as (write_store, read_store):
        looks = overviews(app, write_store, read_store, world, max_lag)
        if watch:
            await _watch(looks, as_json=as_json)
        overview = await anext(looks)
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


async def _show_actions(settings: Settings, *, as_json: bool) -> int:
    async with opened_log(settings, RealWorld()) as write_store:
        recent = dict(list((await operator_actions(write_store)).items())[-RECENT:])
    if as_json:
        emit({"actions": [{"id": number, **msgspec.to_builtins(action)} for number, action in recent.items()]})
    else:
        click.echo("\n".join(_action_lines(recent)))
    return Exit.OK


def _action_lines(actions: Mapping[str, OperatorAction]) -> list[str]:
    if not actions:
        return ["There are no operator actions yet."]
    rows = [["time (UTC)", "action", "name", "key or partition", "user", "outcome"]]
    for action in actions.values():
        at = f"{_EPOCH + timedelta(microseconds=action.at):%Y-%m-%d %H:%M:%S}"
        outcome = action.outcome if action.done else f"not done: {action.outcome}"
        rows.append([at, action.what, action.name, action.key, action.actor or "", outcome])
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
    states = {
        "building": "is being built",
        "standby": "is on standby",
        "serving": f"serves version {each.version} of the code",
    }
    figures = [f"{each.position:,}", f"{each.lag:,}", "", f"{each.rate:,.0f}/s", f"{each.parked}"]
    return [each.name, "generation", f"{each.generation}", *figures, each.owner or "", states[each.state]]

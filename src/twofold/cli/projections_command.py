"""`twofold projections`: the health of all projections and policies, from the two stores or a running `serve`."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import click
import msgspec
from rich.console import Console
from rich.live import Live
from rich.text import Text

from twofold.app import App
from twofold.cli.app_loading import Number, json_option, load_app_or_settings
from twofold.cli.follower_reports import Overview, StoreReader, asked
from twofold.cli.option_checks import refuse_options
from twofold.cli.output import Exit, columns, emit, printable
from twofold.cli.remote import Remote, url_option
from twofold.cli.store_access import StoreUrls, opened_log, opened_stores, store_options
from twofold.health import LAG_SECONDS, BuildStatus, FollowerStatus, HealthProblem
from twofold.read_store.port import Parked
from twofold.settings import Settings
from twofold.synchronization.cluster_state import OperatorAction, operator_actions
from twofold.world import RealWorld, World

RECENT = 20
_HEADINGS = ["name", "kind", "generation", "checkpoint", "lag", "behind", "rate", "parked", "owner", ""]
_FIGURES = frozenset(range(2, 8))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@click.command
@click.argument("target", metavar="[MODULE:APP]", required=False)
@url_option
@store_options
@click.option(
    "--max-lag",
    type=Number(0),
    metavar="SECONDS",
    default=LAG_SECONDS,
    show_default=True,
    help="Report a follower without an objective that is further behind.",
)
@click.option("--watch", is_flag=True, help="Refresh every second, until Ctrl-C (130).")
@click.option("--actions", is_flag=True, help=f"Show the last {RECENT} operator actions instead.")
@json_option
def command(
    target: str | None, url: str | None, urls: StoreUrls, max_lag: float, watch: bool, actions: bool, as_json: bool
) -> int:
    """Show the health of all projections and policies.

    For each: generation, checkpoint, lag, rate, the node that follows it (where there may be several), and parked
    keys with their errors. Partitions have a line each where there are several, and so have generations that are
    being built or on standby.

    Reads both stores beside a running `serve`, without the code of the app. With MODULE:APP it uses the stores of the
    app, and also shows what the app lists but never ran. With --url it shows the report of the `serve` that runs
    there: only that knows whether the write store takes commands, and whether the node is still building its read
    models.

    Exits with 3 unless the level of the report is ready.
    """
    if url is not None:
        refuse_options(("target", "write_store", "read_store", "max_lag"), "with --url the `serve` there reports")
        refuse_options(("actions",), "with --url, ask for `/projections/NAME/actions` there")
        return asyncio.run(_show(asked(Remote(url), RealWorld()), watch=watch, as_json=as_json))
    app, settings = load_app_or_settings(target, urls)
    if actions:
        refuse_options(("watch", "max_lag", "read_store"), "--actions shows the records of the write store, once")
        return asyncio.run(_show_actions(settings, as_json=as_json))
    return asyncio.run(_show_stores(app, settings, max_lag, watch=watch, as_json=as_json))


async def _show_stores(app: App | None, settings: Settings, max_lag: float, *, watch: bool, as_json: bool) -> int:
    world: World = RealWorld()
    async with opened_stores(settings, world) as (write_store, read_store):
        reader = StoreReader(app, write_store, read_store, world, settings, lag_seconds=max_lag)
        return await _show(reader.overviews(), watch=watch, as_json=as_json)


async def _show(overviews: AsyncIterator[Overview], *, watch: bool, as_json: bool) -> int:
    if watch:
        await _watch(overviews, as_json=as_json)
    overview = await anext(overviews)
    if as_json:
        emit(overview)
    else:
        click.echo("\n".join(_lines(overview)))
    return Exit.OK if overview.health.level == "ready" else Exit.UNHEALTHY


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
    health = overview.health
    rows = [_HEADINGS]
    for follower in overview.followers:
        rows += _rows_of(follower, health.problems)
    rows += [_row_of_build(build) for build in overview.builds]
    # Nodes are recorded only where there may be several.
    owners = any(row[8] for row in rows[1:])
    shown = rows if owners else [[*row[:8], row[9]] for row in rows]
    lines = [f"log {overview.log}, head {overview.head:,}: {health.level.replace('_', ' ')}", ""]
    lines += columns(shown, right=_FIGURES) if len(rows) > 1 else ["Nothing follows it."]
    lines += ["", *(problem.message for problem in health.problems)] if health.problems else []
    if health.problem_count > len(health.problems):
        lines.append(f"{health.problem_count - len(health.problems):,} more problems.")
    for each in overview.followers:
        lines += _parked_lines(each.name, each.parked, each.parked_count)
        lines += _rejected_lines(each)
    for build in overview.builds:
        lines += _parked_lines(f"{build.name}, generation {build.generation}", build.parked, build.parked_count)
    return [printable(line) for line in lines]


def _parked_lines(name: str, parked: Sequence[Parked], count: int) -> list[str]:
    lines: list[str] = []
    for each in parked:
        behind = f" ({each.waiting} more events wait behind it)" if each.waiting else ""
        lines += ["", f"{name}: {each.key} is parked at position {each.position}{behind}:", f"  {each.error}"]
    return [*lines, "", f"{name}: {count - len(parked):,} more are parked."] if count > len(parked) else lines


def _rejected_lines(follower: FollowerStatus) -> list[str]:
    lines = ["", f"{follower.name}: the last commands that a rule rejected:"] if follower.rejected else []
    for each in follower.rejected:
        message = f": {each.message}" if each.message else ""
        lines.append(f"  {each.command}, for the event at position {each.position}: {each.code}{message}")
    return lines


def _rows_of(follower: FollowerStatus, problems: Sequence[HealthProblem]) -> list[list[str]]:
    figures = [_count(follower.position), _count(follower.lag), f"{follower.lag_seconds:,.1f} s"]
    figures += [f"{follower.rate:,.0f}/s", _count(follower.parked_count)]
    generation = "" if follower.kind == "policy" else f"{follower.generation}"
    codes = dict.fromkeys(each.code for each in problems if each.subject == follower.name)
    state = ", ".join(codes) or "ok"
    rows = [[follower.name, follower.kind, generation, *figures, follower.owner or "", state]]
    for part in follower.partitions if len(follower.partitions) > 1 else ():
        figures = [_count(part.position), _count(part.lag), "", "", ""]
        rows.append([f"  {part.partition}", "partition", "", *figures, part.owner or "", ""])
    return rows


def _row_of_build(build: BuildStatus) -> list[str]:
    states = {"building": "building", "standby": "standby", "serving": f"serves version {build.version} of the code"}
    figures = [_count(build.position), _count(build.lag), "", f"{build.rate:,.0f}/s", _count(build.parked_count)]
    state = "stopped" if build.stopped else states[build.state]
    return [build.name, "generation", f"{build.generation}", *figures, build.owner or "", state]


def _count(number: int) -> str:
    return f"{number:,}"

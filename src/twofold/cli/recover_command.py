"""`twofold recover`: accept the log as it is, after a backup was restored."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import click
import msgspec

from twofold.app import App
from twofold.cli.app_loading import app_argument, json_option, load_app
from twofold.cli.output import Exit, emit, printable
from twofold.cli.store_access import StoreUrls, opened_log, refuse_memory, store_options
from twofold.operations.recover import RecoveryPlan, plan_recovery, recover
from twofold.read_store.port import ReadStore
from twofold.settings import Settings
from twofold.stores import open_read_store
from twofold.write_store.port import WriteStore

_SHOWN = 20


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """The plan, and the epoch that has begun; None where nothing was changed."""

    plan: RecoveryPlan
    epoch: int | None


@click.command
@app_argument
@store_options
@click.option(
    "--copy", metavar="URL", help="Another copy of the log, to list the events and command ids that are lost."
)
@click.option("--yes", is_flag=True, help="Do it without asking.")
@json_option
def command(target: str, urls: StoreUrls, copy: str | None, yes: bool, as_json: bool) -> int:
    """Accept the log as it is, after a backup was restored or a log was replaced.

    Read models that are of another history than the log are dropped: a standby generation that fits serves in their
    place, else they are built again from the log. Then a new epoch of the log begins, so that tokens and processes of
    the lost history are refused. Without --yes it shows what it would do, and asks. Stop the app first.

    Before you run it, make sure that this log is the right one: the read models may be the last copy of what is lost.
    """
    if copy is not None:
        refuse_memory(copy, "--copy")
    return asyncio.run(_run(load_app(target, urls), copy, yes=yes, as_json=as_json))


async def _run(app: App, copy: str | None, *, yes: bool, as_json: bool) -> int:
    async with _opened(app, copy) as (write_store, read_store, lost_log):
        plan = await plan_recovery(app, write_store, read_store, lost_log)
        if not as_json:
            for line in _lines(plan):
                click.echo(printable(line))
        if not plan.generations:
            if as_json:
                emit(Recovery(plan=plan, epoch=None))
            return Exit.OK
        agreed = yes or (not as_json and sys.stdin.isatty() and click.confirm("Accept this log?", err=True))
        epoch = await recover(app, write_store, read_store, plan) if agreed else None
        if as_json:
            emit(Recovery(plan=plan, epoch=epoch))
        elif epoch is not None:
            click.echo(f"Done: epoch {epoch} has begun. Start the app.")
        else:
            click.echo("Nothing was changed. Repeat with --yes to do this.")
        return Exit.UNHEALTHY if epoch is None else Exit.OK


def _lines(plan: RecoveryPlan) -> list[str]:
    lines = [f"The log {plan.log} is in epoch {plan.epoch} at position {plan.head} ({plan.digest})."]
    if not plan.generations:
        lines.append("All read models fit it. Nothing to do.")
    for each in plan.generations:
        then = "dropped"
        if each.serves:
            then = f"replaced by generation {each.replacement}" if each.replacement else "built again from the log"
        lines.append(f"{each.name}, generation {each.generation}, at position {each.position}: will be {then}.")
        lines.append(f"  {each.reason}")
    if plan.common is not None:
        lines.append(f"The copy agrees up to position {plan.common}; {plan.lost_count:,} later events of it are lost.")
        lines += [f"  {event.position}  {event.type}  command {event.command_id}" for event in plan.lost[:_SHOWN]]
        if plan.lost_count > _SHOWN:
            lines.append(f"  and {plan.lost_count - _SHOWN:,} more (--json lists up to 1,000).")
    elif plan.generations:
        lines.append(
            f"Read models have seen positions up to {plan.seen}. Name another copy of the log with --copy to list "
            "what is lost."
        )
    return lines


@asynccontextmanager
async def _opened(app: App, copy: str | None) -> AsyncGenerator[tuple[WriteStore, ReadStore, WriteStore | None]]:
    async with AsyncExitStack() as stack:
        refuse_memory(app.settings.read_store, "--read-store")
        write_store = await stack.enter_async_context(opened_log(app.settings, app.world, read_only=False))
        read_store = await open_read_store(app.settings.read_store, app.world)
        stack.push_async_callback(read_store.close)
        lost_log = None
        if copy is not None:
            of_copy: Settings = msgspec.structs.replace(app.settings, write_store=copy)
            lost_log = await stack.enter_async_context(opened_log(of_copy, app.world))
        yield write_store, read_store, lost_log

"""`twofold doctor`: what is wrong with a running system, and what to do."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import click
import msgspec

from twofold.cli.app_loading import json_option
from twofold.cli.output import Exit, columns, emit, printable
from twofold.cli.remote import Remote
from twofold.health import HealthReport, Level
from twofold.status import VERSION, Status
from twofold.world import RealWorld, World

SECONDS = 20.0
MOST_OFFSET = 5.0
"""Seconds by which clocks may differ: HTTP dates have whole seconds, and the answer takes some time."""

ADVICE: Mapping[str, str] = {
    "write-store-stopped": "Fix what the process has logged, and restart it: the end of the log is checked then.",
    "write-store-unavailable": "Check that the server of the write store runs and can be reached from the process.",
    "write-store-refuses": "Check the space on the disk and the rights of the role. Appends go on once one succeeds.",
    "forked-history": "A log was restored or replaced. Stop the app and run `twofold recover`.",
    "commands-refused": "Wait until the inline projections are built, or run the same version of the code everywhere.",
    "read-store-unavailable": "Check that the server of the read store runs and can be reached from the process.",
    "building": "Wait. `twofold projections --watch` shows how far it is.",
    "stopping": "Nothing: the process is about to stop.",
    "log-unreadable": "Followers go on once the write store can be read.",
    "log-damaged": "Run `twofold verify`, and restore a backup if the damage is real.",
    "stopped": "Fix what fails and deploy: it goes on by itself.",
    "paused": "Run `twofold resume` when the reason no longer holds.",
    "build-stopped": "Fix the fold and deploy, or drop the generation with `twofold rebuild --drop`.",
    "stalled": "Read the log of its node. If the node hangs, restart it: others take over.",
    "outside-away": "Check what the policy calls. Its events wait, and go on by themselves.",
    "objective-missed": "If this lasts, split its partition (`twofold partitions`) or add a node.",
    "behind": "If this lasts, split its partition (`twofold partitions`) or add a node.",
    "parked": "`twofold parked` lists them with their errors. Fix the fold, then retry or skip them.",
    "synchronization-fails": "Read the log of the process.",
}
"""What to do, by the code of a problem."""


class Diagnosis(msgspec.Struct, frozen=True):
    """One thing about a running system: how it is, and the `advice` where something is wrong."""

    check: str
    level: Level
    message: str
    advice: str = ""


@click.command
@click.option("--url", metavar="URL", required=True, help="The address of the running `serve`.")
@json_option
def command(url: str, as_json: bool) -> int:
    """Say what is wrong with a running system, and what to do.

    Asks the `serve` at --url for its health, its problems, how far its projections and policies are behind, its version
    and its clock. Exits with 3 unless all is well.
    """
    found = diagnose(Remote(url, seconds=SECONDS), RealWorld())
    if as_json:
        emit({"diagnoses": found})
    else:
        for line in columns([[each.level, each.check, printable(each.message)] for each in found if not each.advice]):
            click.echo(line)
        for each in found:
            if each.advice:
                click.echo(printable(f"{each.level}  {each.check}: {each.message}"))
                click.echo(f"    {each.advice}")
    return Exit.OK if all(each.level == "ready" for each in found) else Exit.UNHEALTHY


def diagnose(remote: Remote, world: World) -> list[Diagnosis]:
    """All that can be seen from here. Unavailable where the server does not answer."""
    before = world.now()
    status = msgspec.convert(remote.get("/status"), Status)
    after = world.now()
    found = [_clock(remote.date, before, after), _version(status)]
    found += [Diagnosis("health", "ready", f"The log is at position {status.head}.")]
    found += [
        Diagnosis(
            f"{each.kind} {each.name}", "ready", f"{each.state}, {each.lag} events ({each.lag_seconds:.1f} s) behind"
        )
        for each in status.followers
    ]
    return found + _problems(status.health)


def _problems(health: HealthReport) -> list[Diagnosis]:
    found = [
        Diagnosis(each.code, each.level, f"{each.subject}: {each.message}", ADVICE.get(each.code, "Read the log."))
        for each in health.problems
    ]
    left = health.problem_count - len(health.problems)
    if left > 0:
        found.append(
            Diagnosis("problems", health.level, f"There are {left} more.", "Fix the first ones and ask again.")
        )
    return found


def _clock(date: str, before: datetime, after: datetime) -> Diagnosis:
    if not date:
        return Diagnosis("clock", "ready", "The server sends no date.")
    there = parsedate_to_datetime(date)
    there = there if there.tzinfo is not None else there.replace(tzinfo=UTC)
    ahead = (there - after).total_seconds()
    late = (before - there).total_seconds()
    offset = max(ahead, late)
    if offset > MOST_OFFSET:
        text = f"The clocks differ by {offset:.0f} s: there it is {there:%Y-%m-%d %H:%M:%S} UTC."
        return Diagnosis(
            "clock", "degraded", text, "Synchronize the clocks (NTP): due commands and lags depend on them."
        )
    return Diagnosis("clock", "ready", "The clocks agree.")


def _version(status: Status) -> Diagnosis:
    text = f"The server runs Twofold {status.version}, this is {VERSION}."
    return Diagnosis("version", "ready", text)

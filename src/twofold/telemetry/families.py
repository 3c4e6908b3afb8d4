"""All metrics of an app at one moment, for Prometheus and OTLP alike: what it counts, and what its status says.

Label values are names of messages, projections and policies, their partitions, routes, and fixed words: nothing that
callers send.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from twofold.health import SIDES, Level
from twofold.runtime import Runtime
from twofold.status import Status
from twofold.telemetry.instruments import Family, Kind, Labels
from twofold.telemetry.recorder import Telemetry
from twofold.write_store.port import Measurable, Verifiable

MAX_PARTITION_SERIES = 1_000
"""More would burden the collector too much: partitions are left out then."""

LEVELS: Mapping[Level, int] = {"not_ready": 0, "degraded": 1, "ready": 2}

_Gauges = tuple[tuple[str, str, str], ...]
"""Metrics: the name, the attribute of a report that it is read from, and the text."""

_OF_FOLLOWERS: _Gauges = (
    ("position", "position", "Checkpoint: the follower has taken the log up to here."),
    ("lag_events", "lag", "Events behind the log."),
    ("lag_seconds", "lag_seconds", "Age of the oldest event that is not yet taken."),
    ("freshness_objective_seconds", "freshness", "Objective for the lag, if declared."),
    ("stalled_seconds", "stalled", "Seconds without progress while behind."),
    ("paused", "paused", "1 if it is paused."),
    ("outage", "away", "1 while events of a policy wait because what it calls is away; on the node that runs it."),
    ("parked_keys", "parked_count", "Parked keys and events."),
    ("waiting_events", "waiting_events", "Events that wait behind parked keys."),
)
_OF_PARTITIONS: _Gauges = (
    ("position", "position", "Checkpoint of one of several partitions."),
    ("lag_events", "lag", "Events this partition is behind the log."),
    ("stalled_seconds", "stalled", "Seconds without progress of this partition while behind."),
)
_OF_BUILDS: _Gauges = (
    ("generation", "generation", "Number of a generation that does not serve."),
    ("position", "position", "Checkpoint of a generation that does not serve."),
    ("lag_events", "lag", "Events a generation is behind the log."),
    ("seconds_left", "seconds_left", "Estimated seconds until a generation reaches the head."),
    ("parked_keys", "parked_count", "Parked keys of a generation."),
)


def status_families(status: Status) -> list[Family]:
    """What a status says, as metrics."""
    health = status.health
    levels: dict[Labels, float] = {}
    for side in SIDES:
        level = health.of(side)
        if level is not None:
            levels[(side,)] = LEVELS[level]
    followers = {(each.name, each.kind): each for each in status.followers}
    # There is at most one build in each state, so the state is the label: a generation number would grow for ever.
    builds = {(each.name, each.state): each for each in sorted(status.builds, key=lambda each: each.generation)}
    split = [each for each in status.followers if len(each.partitions) > 1]
    parts = {(each.name, part.partition): part for each in split for part in each.partitions}
    partitions = _families("partition", ("name", "partition"), parts, _OF_PARTITIONS)
    if sum(len(family.series) for family in partitions) > MAX_PARTITION_SERIES:
        partitions = []
    return [
        one("head_position", "gauge", "Position of the last event in the log.", status.head),
        one("uptime_seconds", "gauge", "Seconds since this process started the app.", status.uptime),
        one("ready", "gauge", "1 if requests should be sent here.", health.level != "not_ready"),
        Family("twofold_health_level", "gauge", "2 ready, 1 degraded, 0 not ready.", ("side",), levels),
        one("problems", "gauge", "Number of problems in the report of /status.", health.problem_count),
        *_families("follower", ("name", "kind"), followers, _OF_FOLLOWERS),
        *_families("build", ("name", "state"), builds, _OF_BUILDS),
        *partitions,
    ]


async def process_families(telemetry: Telemetry, runtime: Runtime) -> list[Family]:
    """What this process counts, and what it knows of its log."""
    folds, log = runtime.folds, runtime.write_store.present
    read = folds.read
    sources: Mapping[Labels, float] = {("cache",): folds.found - read, ("log",): read}
    counts = msgspec.structs.asdict(runtime.snapshots.counts)
    snapshots: Mapping[Labels, float] = {(outcome,): count for outcome, count in counts.items()}
    reservations = runtime.batcher.contention.reservations
    families = [
        *telemetry.families(),
        Family(
            "twofold_states_total", "counter", "States decided on, and where they were found.", ("source",), sources
        ),
        Family("twofold_snapshots_total", "counter", "Snapshots of decision models.", ("outcome",), snapshots),
        one("reservations_total", "counter", "Times that this process has reserved the log.", reservations),
    ]
    if isinstance(log, Measurable):
        families.append(one("log_bytes", "gauge", "Bytes that the log takes on disk.", await log.stored_bytes()))
    if isinstance(log, Verifiable):
        damage = log.damage
        families += [
            one("verify_position", "gauge", "The log is verified up to here in the present round.", damage.verified),
            one("verify_rounds_total", "counter", "Times the whole log was verified.", damage.rounds),
            one("damages", "gauge", "Damaged places of the log that are known.", damage.count),
        ]
    return families


def one(name: str, kind: Kind, help: str, value: float) -> Family:
    """A metric of one series."""
    series: Mapping[Labels, float] = {(): float(value)}
    return Family(f"twofold_{name}", kind, help, (), series)


def _families(what: str, labels: Sequence[str], reports: Mapping[Any, object], gauges: _Gauges) -> list[Family]:
    """The gauges of some reports, given by the values of their labels."""
    return [
        Family(f"twofold_{what}_{name}", "gauge", text, labels, dict(_numbers(reports, attribute)))
        for name, attribute, text in gauges
    ]


def _numbers(reports: Mapping[Any, object], attribute: str) -> Iterable[tuple[Labels, float]]:
    for values, report in reports.items():
        number = getattr(report, attribute)
        if number is not None:
            yield values, float(number)

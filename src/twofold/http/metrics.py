"""`GET /metrics`: what `/status` measures, in the format of Prometheus, measured for each scrape.

Label values are names of projections and policies, their partitions, and fixed words: nothing that callers send.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from twofold.health import SIDES, Level
from twofold.http.exchange import Exchange, Handler
from twofold.http.health_routes import status_now
from twofold.http.wire import Wire
from twofold.status import Status

MAX_SERIES = 1_000
"""More would burden the collector too much: partitions are left out then."""

_LEVELS: Mapping[Level, int] = {"not_ready": 0, "degraded": 1, "ready": 2}


_Gauges = tuple[tuple[str, str, str], ...]
"""Metrics: the name, the attribute of a report that it is read from, and the text."""

_OF_FOLLOWERS: _Gauges = (
    ("position", "position", "Checkpoint: the follower has taken the log up to here."),
    ("lag_events", "lag", "Events behind the log."),
    ("lag_seconds", "lag_seconds", "Age of the oldest event that is not yet taken."),
    ("freshness_objective_seconds", "freshness", "Objective for the lag, if declared."),
    ("stalled_seconds", "stalled", "Seconds without progress while behind."),
    ("paused", "paused", "1 if it is paused."),
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


def metrics_handler(wire: Wire) -> Handler:
    async def handle(exchange: Exchange) -> None:
        wire.parameters(exchange)
        status = await wire.in_time(status_now(wire))
        kind = (b"content-type", CONTENT_TYPE_LATEST.encode())
        await exchange.answer(200, [kind, (b"cache-control", b"no-store")], exposition(status))

    return handle


def exposition(status: Status) -> bytes:
    return generate_latest(_StatusCollector(status))


class _StatusCollector:
    """What `generate_latest` collects from: one status, which was measured already."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status, health = self._status, self._status.health
        levels = GaugeMetricFamily("twofold_health_level", "2 ready, 1 degraded, 0 not ready.", labels=["side"])
        for side in SIDES:
            if (level := health.of(side)) is not None:
                levels.add_metric([side], _LEVELS[level])
        followers = {(each.name, each.kind): each for each in status.followers}
        # There is at most one build in each state, so the state is the label: a generation number would grow for ever.
        builds = {(each.name, each.state): each for each in sorted(status.builds, key=lambda each: each.generation)}
        metrics: list[Metric] = [
            GaugeMetricFamily("twofold_head_position", "Position of the last event in the log.", status.head),
            CounterMetricFamily("twofold_commands", "Commands handled by this process.", status.commands),
            CounterMetricFamily("twofold_rejected", "Commands that a rule of the domain rejected.", status.rejected),
            CounterMetricFamily("twofold_queries", "Queries answered by this process.", status.queries),
            GaugeMetricFamily("twofold_uptime_seconds", "Seconds since this process started the app.", status.uptime),
            GaugeMetricFamily("twofold_ready", "1 if requests should be sent here.", health.level != "not_ready"),
            levels,
            GaugeMetricFamily("twofold_problems", "Number of problems in the report of /status.", health.problem_count),
            *_families("follower", ["name", "kind"], followers, _OF_FOLLOWERS),
            *_families("build", ["name", "state"], builds, _OF_BUILDS),
        ]
        split = [each for each in status.followers if len(each.partitions) > 1]
        parts = {(each.name, part.partition): part for each in split for part in each.partitions}
        partitions = _families("partition", ["name", "partition"], parts, _OF_PARTITIONS)
        series = sum(len(family.samples) for family in [*metrics, *partitions])
        return metrics if series > MAX_SERIES else [*metrics, *partitions]


def _families(what: str, labels: Sequence[str], reports: Mapping[Any, object], gauges: _Gauges) -> list[Metric]:
    """The gauges of some reports, given by the values of their labels."""
    families: list[Metric] = []
    for name, attribute, text in gauges:
        family = GaugeMetricFamily(f"twofold_{what}_{name}", text, labels=labels)
        for values, report in reports.items():
            number = getattr(report, attribute)
            if number is not None:
                family.add_metric(values, number)
        families.append(family)
    return families

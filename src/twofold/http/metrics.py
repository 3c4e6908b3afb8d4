"""`GET /metrics`: what `/status` measures, in the format of Prometheus, measured for each scrape.

Label values are names of projections and policies, their partitions, and fixed words: nothing that callers send.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from twofold.health import BuildStatus, FollowerStatus, Level, PartitionStatus
from twofold.http.exchange import Exchange, Handler
from twofold.http.health_routes import status_now
from twofold.http.wire import Wire
from twofold.status import Status

MAX_SERIES = 1_000
"""More would burden the collector too much: partitions are left out then."""

_Sample = tuple[Sequence[str], float | None]
_LEVELS: Mapping[Level, int] = {"not_ready": 0, "degraded": 1, "ready": 2}


def metrics_handler(wire: Wire) -> Handler:
    """Answers a scrape."""

    async def handle(exchange: Exchange) -> None:
        wire.parameters(exchange)
        status = await wire.in_time(status_now(wire))
        kind = (b"content-type", CONTENT_TYPE_LATEST.encode())
        await exchange.answer(200, [kind, (b"cache-control", b"no-store")], exposition(status))

    return handle


def exposition(status: Status) -> bytes:
    """The numbers of a status in the format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(_StatusCollector(_metrics(status)))
    return generate_latest(registry)


class _StatusCollector(Collector):
    """Metrics that were measured already."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metrics(status: Status) -> list[Metric]:
    health = status.health
    sides = [(("command",), _LEVELS[health.command_side]), (("query",), _LEVELS[health.query_side])]
    metrics: list[Metric] = [
        GaugeMetricFamily("twofold_head_position", "Position of the last event in the log.", status.head),
        CounterMetricFamily("twofold_commands", "Commands handled by this process.", status.commands),
        CounterMetricFamily("twofold_rejected", "Commands that a rule of the domain rejected.", status.rejected),
        CounterMetricFamily("twofold_queries", "Queries answered by this process.", status.queries),
        GaugeMetricFamily("twofold_uptime_seconds", "Seconds since this process started the app.", status.uptime),
        GaugeMetricFamily("twofold_ready", "1 if requests should be sent here.", health.level != "not_ready"),
        _family("twofold_health_level", "2 ready, 1 degraded, 0 not ready.", ["side"], sides),
        GaugeMetricFamily("twofold_problems", "Number of problems in the report of /status.", health.problem_count),
        *_followers(status.followers),
        *_builds(status.builds),
    ]
    partitions = _partitions(status.followers)
    series = sum(len(family.samples) for family in [*metrics, *partitions])
    return metrics if series > MAX_SERIES else [*metrics, *partitions]


def _followers(followers: Sequence[FollowerStatus]) -> list[Metric]:
    def family(name: str, text: str, value: Callable[[FollowerStatus], float | None]) -> Metric:
        labelled = [((each.name, each.kind), value(each)) for each in followers]
        return _family(f"twofold_follower_{name}", text, ["name", "kind"], labelled)

    return [
        family("position", "Checkpoint: the follower has taken the log up to here.", lambda each: each.position),
        family("lag_events", "Events behind the log.", lambda each: each.lag),
        family("lag_seconds", "Age of the oldest event that is not yet taken.", lambda each: each.lag_seconds),
        family("freshness_objective_seconds", "Objective for the lag, if declared.", lambda each: each.freshness),
        family("stalled_seconds", "Seconds without progress while behind.", lambda each: each.stalled),
        family("parked_keys", "Parked keys (of a policy: events).", lambda each: each.parked_count),
        family("waiting_events", "Events that wait behind parked keys.", lambda each: each.waiting_events),
    ]


def _partitions(followers: Sequence[FollowerStatus]) -> list[Metric]:
    partitions = [(each.name, part) for each in followers if len(each.partitions) > 1 for part in each.partitions]

    def family(name: str, text: str, value: Callable[[PartitionStatus], float]) -> Metric:
        labelled = [((follower, part.partition), value(part)) for follower, part in partitions]
        return _family(f"twofold_partition_{name}", text, ["name", "partition"], labelled)

    return [
        family("position", "Checkpoint of one of several partitions.", lambda part: part.position),
        family("lag_events", "Events this partition is behind the log.", lambda part: part.lag),
        family("stalled_seconds", "Seconds without progress of this partition while behind.", lambda p: p.stalled),
    ]


def _builds(builds: Sequence[BuildStatus]) -> list[Metric]:
    # There is at most one build in each state, so the state is the label: a generation number would grow for ever.
    newest = {(each.name, each.state): each for each in sorted(builds, key=lambda each: each.generation)}

    def family(name: str, text: str, value: Callable[[BuildStatus], float | None]) -> Metric:
        labelled = [(labels, value(each)) for labels, each in newest.items()]
        return _family(f"twofold_build_{name}", text, ["name", "state"], labelled)

    return [
        family("generation", "Number of a generation that does not serve.", lambda each: each.generation),
        family("position", "Checkpoint of a generation that does not serve.", lambda each: each.position),
        family("lag_events", "Events a generation is behind the log.", lambda each: each.lag),
        family("seconds_left", "Estimated seconds until a generation reaches the head.", lambda e: e.seconds_left),
        family("parked_keys", "Parked keys of a generation.", lambda each: each.parked_count),
    ]


def _family(name: str, text: str, labels: Sequence[str], samples: Iterable[_Sample]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples:
        if number is not None:
            family.add_metric(values, number)
    return family

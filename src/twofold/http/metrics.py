"""In charge of `GET /metrics`: what `/status` measures, as Prometheus reads it, measured anew for each scrape.

Label values are names of projections and policies, their partitions, and words of ours: nothing that callers send.
"""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from twofold.http.exchange import Exchange, Handler
from twofold.http.wire import Wire
from twofold.status import Status
from twofold.synchronization.follower import BuildStatus, FollowerStatus

MOST_SERIES = 1_000
"""A process that tells more would cost the one that collects them too much: partitions are left out then."""

_Told = tuple[Sequence[str], float]


def metrics_handler(wire: Wire) -> Handler:
    """What answers a scrape. Unavailable where a store is away: that the scrape fails is the alarm."""

    async def handle(exchange: Exchange) -> None:
        wire.parameters(exchange)
        status = await wire.in_time(wire.app.status())
        text = exposition(status, leaving=wire.streams.draining.is_set())
        kind = (b"content-type", CONTENT_TYPE_LATEST.encode())
        await exchange.answer(200, [kind, (b"cache-control", b"no-store")], text)

    return handle


def exposition(status: Status, *, leaving: bool = False) -> bytes:
    """The numbers of a status as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(_StatusCollector(_metrics(status, leaving)))
    return generate_latest(registry)


class _StatusCollector(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _metrics(status: Status, leaving: bool) -> list[Metric]:
    told: list[Metric] = [
        GaugeMetricFamily("twofold_head_position", "Position of the last event in the log.", status.head),
        CounterMetricFamily("twofold_commands", "Commands handled by this process.", status.commands),
        CounterMetricFamily("twofold_rejected", "Commands that a rule of the domain rejected.", status.rejected),
        CounterMetricFamily("twofold_queries", "Queries answered by this process.", status.queries),
        GaugeMetricFamily("twofold_uptime_seconds", "Seconds since this process started the app.", status.uptime),
        GaugeMetricFamily("twofold_ready", "1 if requests should be sent here.", status.ready and not leaving),
        GaugeMetricFamily(
            "twofold_problems", "How many sentences /status says about what is wrong.", len(status.problems)
        ),
        *_followers(status.followers),
        *_builds(status.builds),
    ]
    partitions = _partitions(status.followers)
    series = sum(len(each.samples) for each in [*told, *partitions])
    return told if series > MOST_SERIES else [*told, *partitions]


def _followers(followers: Sequence[FollowerStatus]) -> list[Metric]:
    def family(name: str, text: str, told: Iterable[_Told]) -> Metric:
        return _family(f"twofold_follower_{name}", text, ("name", "kind"), told)

    by = {each.name: (each.name, each.kind) for each in followers}
    stalled = {each.name: max((share.stalled for share in each.shares), default=0.0) for each in followers}
    objectives = [(by[each.name], each.freshness) for each in followers if each.freshness is not None]
    waiting = {each.name: sum(parked.waiting for parked in each.parked) for each in followers}
    return [
        family("position", "Checkpoint: the log is taken up to here.", ((by[f.name], f.position) for f in followers)),
        family("lag_events", "Events behind the log.", ((by[f.name], f.lag) for f in followers)),
        family(
            "lag_seconds", "Age of the oldest event not taken yet.", ((by[f.name], f.lag_seconds) for f in followers)
        ),
        family("freshness_objective_seconds", "The lag in seconds that is promised, where one is.", objectives),
        family(
            "stalled_seconds",
            "Seconds without any move of the checkpoint while behind.",
            ((by[name], seconds) for name, seconds in stalled.items()),
        ),
        family(
            "parked_keys", "Keys (of a policy: events) set aside.", ((by[f.name], len(f.parked)) for f in followers)
        ),
        family(
            "waiting_events", "Events that wait behind parked keys.", ((by[n], count) for n, count in waiting.items())
        ),
    ]


def _partitions(followers: Sequence[FollowerStatus]) -> list[Metric]:
    shares = [
        ((each.name, share.partition), share) for each in followers if len(each.shares) > 1 for share in each.shares
    ]

    def family(name: str, text: str, told: Iterable[_Told]) -> Metric:
        return _family(f"twofold_partition_{name}", text, ("name", "partition"), told)

    return [
        family("position", "Checkpoint of one of several partitions.", ((by, each.position) for by, each in shares)),
        family("lag_events", "Events this partition is behind the log.", ((by, each.lag) for by, each in shares)),
        family(
            "stalled_seconds",
            "Seconds without any move of this partition while behind.",
            ((by, each.stalled) for by, each in shares),
        ),
    ]


def _builds(builds: Sequence[BuildStatus]) -> list[Metric]:
    # There is one of each state at most, so the state tells them apart, and no number that only grows is a label.
    newest = {(each.name, each.state): each for each in sorted(builds, key=lambda each: each.generation)}
    some = list(newest.items())

    def family(name: str, text: str, told: Iterable[_Told]) -> Metric:
        return _family(f"twofold_build_{name}", text, ("name", "state"), told)

    left = [(which, each.seconds_left) for which, each in some if each.seconds_left is not None]
    return [
        family("generation", "Number of a generation that does not serve.", ((w, each.generation) for w, each in some)),
        family("position", "Checkpoint of a generation that does not serve.", ((w, each.position) for w, each in some)),
        family("lag_events", "Events a generation is behind the log.", ((w, each.lag) for w, each in some)),
        family("seconds_left", "Until a generation has come to the head, where it can be told.", left),
        family("parked_keys", "Keys a generation has set aside.", ((w, each.parked) for w, each in some)),
    ]


def _family(name: str, text: str, labels: Sequence[str], told: Iterable[_Told]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in told:
        family.add_metric(values, number)
    return family

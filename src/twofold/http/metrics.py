"""`GET /metrics`: the metrics of the app in the format of Prometheus, measured for each scrape."""

from collections.abc import Iterable, Sequence

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from twofold.http.exchange import Exchange, Handler
from twofold.http.health_routes import status_now
from twofold.http.wire import Wire
from twofold.telemetry.instruments import Buckets, Family


def metrics_handler(wire: Wire) -> Handler:
    async def handle(exchange: Exchange) -> None:
        wire.parameters(exchange)
        families = await wire.in_time(families_now(wire))
        kind = (b"content-type", CONTENT_TYPE_LATEST.encode())
        await exchange.answer(200, [kind, (b"cache-control", b"no-store")], exposition(families))

    return handle


async def families_now(wire: Wire) -> list[Family]:
    """All metrics of the app as it is served here."""
    return await wire.app.metrics(await status_now(wire))


def exposition(families: Sequence[Family]) -> bytes:
    """Metrics in the format of Prometheus."""
    return generate_latest(_Collector(families))


class _Collector:
    """What `generate_latest` collects from: metrics that were measured already."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return map(_metric, self._families)


def _metric(family: Family) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, buckets in family.series.items():
            if isinstance(buckets, Buckets):
                histogram.add_metric(labels, _cumulative(buckets), buckets.total)
        return histogram
    made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = made(family.name, family.help, labels=family.labels)
    for labels, value in family.series.items():
        if not isinstance(value, Buckets):
            metric.add_metric(labels, value)
    return metric


def _cumulative(buckets: Buckets) -> list[tuple[str, float]]:
    """The buckets as Prometheus has them: each counts all values up to its bound."""
    seen = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip([*buckets.bounds, float("inf")], buckets.counts, strict=True):
        seen += count
        found.append(("+Inf" if bound == float("inf") else str(float(bound)), seen))
    return found

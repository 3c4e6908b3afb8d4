"""The export by OTLP over HTTP, with the SDK of OpenTelemetry: spans in batches, and the metrics in an interval."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence, Set
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from twofold.errors import TwofoldError
from twofold.telemetry.export import Measure
from twofold.telemetry.instruments import Buckets, Family, Labels
from twofold.telemetry.tracing import is_configured
from twofold.world import World

log = logging.getLogger(__name__)

_SCOPE = InstrumentationScope("twofold")
_CUMULATIVE = AggregationTemporality.CUMULATIVE
_NOT_KEPT: Any = None
"""OTLP does not need the smallest and the largest value; the type of the SDK does."""


class OtlpExport:
    """Sends to the endpoints of the variables `OTEL_EXPORTER_OTLP_*`. A tracer provider that there is stays.

    `wanted` has `traces`, `metrics`, or both. Sending runs in threads: the event loop does not wait for the collector.
    """

    def __init__(self, world: World, wanted: Set[str]) -> None:
        self._world = world
        self._began = _nanoseconds(world)
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "twofold"}
        self._resource = Resource.create({**named, "service.instance.id": world.place})
        self._spans: TracerProvider | None = None
        if "traces" in wanted and not is_configured():
            self._spans = TracerProvider(resource=self._resource)
            self._spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
            trace.set_tracer_provider(self._spans)
        # Its methods take further arguments without types.
        self._metrics: Any = OTLPMetricExporter() if "metrics" in wanted else None

    async def push(self, measure: Measure) -> None:
        seconds = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "60000")) / 1_000
        while self._metrics is not None:
            await self._world.sleep(seconds)
            try:
                families = await measure()
            except TwofoldError as error:
                log.warning("The metrics could not be measured: %s", error)
                continue
            data = metrics_data(families, self._resource, self._began, _nanoseconds(self._world))
            if await asyncio.to_thread(self._metrics.export, data) is not MetricExportResult.SUCCESS:
                log.warning("The collector has not taken the metrics. They are sent again in %g s.", seconds)

    async def close(self) -> None:
        if self._spans is not None:
            await asyncio.to_thread(self._spans.shutdown)
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.shutdown)


def metrics_data(families: Sequence[Family], resource: Resource, began: int, now: int) -> MetricsData:
    """Metrics as the SDK exports them, with the same names and labels. Times are nanoseconds since 1970."""
    metrics = [_metric(family, began, now) for family in families if family.series]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(_SCOPE, metrics, "")], "")])


def _metric(family: Family, began: int, now: int) -> Metric:
    unit = "s" if family.name.endswith("_seconds") else "By" if family.name.endswith("_bytes") else "1"
    if family.kind == "histogram":
        histograms = [
            _histogram(_attributes(family, labels), buckets, began, now)
            for labels, buckets in family.series.items()
            if isinstance(buckets, Buckets)
        ]
        return Metric(family.name, family.help, unit, HistogramData(histograms, _CUMULATIVE))
    points = [
        NumberDataPoint(_attributes(family, labels), began, now, value)
        for labels, value in family.series.items()
        if not isinstance(value, Buckets)
    ]
    if family.kind == "counter":
        return Metric(family.name, family.help, unit, Sum(points, _CUMULATIVE, is_monotonic=True))
    return Metric(family.name, family.help, unit, Gauge(points))


def _histogram(attributes: Mapping[str, str], buckets: Buckets, began: int, now: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=began,
        time_unix_nano=now,
        count=sum(buckets.counts),
        sum=buckets.total,
        bucket_counts=buckets.counts,
        explicit_bounds=buckets.bounds,
        min=_NOT_KEPT,
        max=_NOT_KEPT,
    )


def _attributes(family: Family, labels: Labels) -> Mapping[str, str]:
    return dict(zip(family.labels, labels, strict=True))


def _nanoseconds(world: World) -> int:
    return int(world.now().timestamp() * 1e9)

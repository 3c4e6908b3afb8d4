"""What processes send to a collector: one trace over two of them, and the metrics that Prometheus gets."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from tests.documentation.code_block_helpers import ROOT
from tests.sample_domains.counter_app_helpers import until
from tests.servers.postgres import Postgres, fresh_schema
from tests.telemetry.otlp_receiver import Received, receiving
from tests.write_store.postgres_helpers import fresh_log
from twofold import WiringError
from twofold.telemetry.export import open_export
from twofold.world import RealWorld

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
TWOFOLD = str(Path(sys.executable).parent / "twofold")


@asynccontextmanager
async def process(folder: Path, received: Received, *options: str) -> AsyncIterator[str]:
    """A process that serves the bank and exports; its address. It stops within the context's end."""
    (folder / "traced.py").write_text("from tests.telemetry.traced_bank import traced_bank\napp = traced_bank()\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OTEL_EXPORTER_OTLP_ENDPOINT": received.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "TWOFOLD_TRACE_SHARE": "0",
    }
    command = [TWOFOLD, "serve", "traced:app", "--port", "0", "--json", *options]
    with (folder / "errors").open("a") as errors:
        started = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert started.stdout is not None
        line = await asyncio.to_thread(started.stdout.readline)
        assert line, (folder / "errors").read_text()
        yield json.loads(line)["data"]["url"]
    finally:
        started.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(started.wait)
        assert started.stdout is not None
        started.stdout.close()
    assert code == 0, (folder / "errors").read_text()


@pytest.fixture
def received() -> Iterator[Received]:
    with receiving() as found:
        yield found


async def test_one_trace_goes_from_a_request_through_two_processes(
    tmp_path: Path, received: Received, postgres_newest: Postgres
) -> None:
    write_store = await fresh_log(postgres_newest.dsn)
    stores = ("--write-store", write_store, "--read-store", f"{postgres_newest.dsn}?schema={fresh_schema()}")
    async with AsyncExitStack() as stack:
        sync = await stack.enter_async_context(process(tmp_path, received, *stores, "--roles", "sync,query"))
        commands = await stack.enter_async_context(process(tmp_path, received, *stores, "--roles", "command"))
        async with httpx.AsyncClient(timeout=60) as http:
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
            body = {"account_id": "ann", "cents": 5}
            answer = await http.post(f"{commands}/commands/deposit", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            untraced = await http.post(f"{commands}/commands/deposit", json=body | {"account_id": "eve"})
            assert untraced.status_code == 200
            await until(lambda: is_answered(http, sync), "the answer of the policy")
        await until(lambda: has_pages(received), "the pages of both events")
    by_name: dict[str, list[tuple[str, Span]]] = {}
    for place, span in received.spans:
        assert span.trace_id.hex() == TRACE, span.name
        by_name.setdefault(span.name, []).append((place, span))
    ((here, request),) = by_name["POST /commands/deposit"]
    assert request.parent_span_id.hex() == SPAN
    ((_, command),) = [each for each in by_name["command deposit"] if each[1].parent_span_id == request.span_id]
    below = {span.name for place, span in received.spans if span.parent_span_id == command.span_id and place == here}
    assert below == {"decide deposit", "append"}
    pages = [each for each in by_name["process balances"] if each[1].links[0].span_id == command.span_id]
    reactions = [each for each in by_name["process giver"] if each[1].parent_span_id == command.span_id]
    ((there, page),) = pages
    ((same, reaction),) = reactions
    assert there == same != here
    assert page.parent_span_id == command.span_id
    ((_, gift),) = [each for each in by_name["command deposit"] if each[1].parent_span_id == reaction.span_id]
    assert {span.name for _, span in received.spans if span.parent_span_id == gift.span_id} >= {"decide deposit"}


async def is_answered(http: httpx.AsyncClient, url: str) -> bool:
    return (await http.get(f"{url}/queries/balance-of", params={"account_id": "gifts"})).json()["answer"] is not None


async def has_pages(received: Received) -> bool:
    links = {link.span_id for _, span in received.spans if span.name == "process balances" for link in span.links}
    return len(links) == 2


async def test_a_collector_gets_the_metrics_of_prometheus_under_the_same_names_and_labels(
    tmp_path: Path, received: Received
) -> None:
    stores = ("--write-store", f"sqlite:///{tmp_path}/log.db", "--read-store", f"sqlite:///{tmp_path}/views.db")
    async with process(tmp_path, received, *stores) as url, httpx.AsyncClient(timeout=60) as http:
        await http.post(f"{url}/commands/deposit", json={"account_id": "eve", "cents": 5})
        await http.get(f"{url}/metrics")
        await until(lambda: is_counted(received), "the metrics")
        text = (await http.get(f"{url}/metrics")).text
    families = {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in text_string_to_metric_families(text)
        if family.samples
    }
    assert received.metrics.keys() == families.keys()
    for name, metric in received.metrics.items():
        data = getattr(metric, metric.WhichOneof("data") or "")
        assert metric.WhichOneof("data") == {"counter": "sum"}.get(families[name].type, families[name].type)
        series = {
            frozenset((each.key, each.value.string_value) for each in point.attributes) for point in data.data_points
        }
        labels = {frozenset((k, v) for k, v in s.labels.items() if k != "le") for s in families[name].samples}
        assert series <= labels, name
    (seconds,) = [
        point
        for point in received.metrics["twofold_command_seconds"].histogram.data_points
        if point.attributes[0].value.string_value == "deposit"
    ]
    assert seconds.count == sum(seconds.bucket_counts) == 1 and len(seconds.explicit_bounds) == 14


async def is_counted(received: Received) -> bool:
    metric = received.metrics.get("twofold_commands_total")
    return metric is not None and any(point.as_int == 1 for point in metric.sum.data_points)


async def test_a_collector_that_refuses_does_not_stop_the_process(tmp_path: Path, received: Received) -> None:
    received.answer = 400
    stores = ("--write-store", f"sqlite:///{tmp_path}/log.db", "--read-store", f"sqlite:///{tmp_path}/views.db")
    async with process(tmp_path, received, *stores) as url, httpx.AsyncClient(timeout=60) as http:
        await until(lambda: was_refused(received), "a refusal")
        body = {"account_id": "eve", "cents": 5}
        assert (await http.post(f"{url}/commands/deposit", json=body)).status_code == 200
        received.answer = 200
        await until(lambda: is_counted(received), "the metrics")


async def was_refused(received: Received) -> bool:
    return received.refused > 0


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_SDK_DISABLED": "true"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        },
    ],
)
def test_nothing_is_exported_unless_the_environment_asks_for_it(variables: dict[str, str]) -> None:
    assert open_export(RealWorld(), variables) is None


def test_an_export_without_the_extra_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "twofold.telemetry.otlp", None)
    with pytest.raises(WiringError, match=r"twofold\[otel\]"):
        open_export(RealWorld(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"})

"""Log records name the trace that they were written in, where it is sampled."""

import json
import logging

import pytest
from opentelemetry.trace import get_current_span

from tests.sample_domains.bank import Deposit
from tests.telemetry.span_helpers import NONE, identity, trace_of, traced
from twofold.cli.log_handler import json_line
from twofold.telemetry.trace_log import TraceFilter


@pytest.fixture
def handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.addFilter(TraceFilter())
    return handler


def noted(handler: logging.Handler) -> tuple[str, str]:
    """The ids of a record that is written now."""
    record = logging.LogRecord("twofold", logging.WARNING, "file", 1, "text", (), None)
    assert handler.filter(record)
    return vars(record)["trace_id"], vars(record)["span_id"]


async def test_a_record_of_a_command_has_its_trace_and_span(
    handler: logging.Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traced() as (app, traces):
        found: list[tuple[str, str]] = []
        running = app._running
        assert running is not None
        handle = running.commands.handle

        async def noting(*given: object) -> object:
            found.append(noted(handler))
            return await handle(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(running.commands, "handle", noting)
        await app.send(Deposit("eve", 1))
    command = traces.one("command deposit")
    assert found == [(f"{trace_of(command):032x}", f"{identity(command):016x}")]


async def test_a_record_outside_a_sampled_trace_has_no_ids(handler: logging.Handler) -> None:
    assert noted(handler) == ("", "")
    async with traced(NONE) as (app, _):
        tracing = app.telemetry.tracing
        assert tracing is not None
        with tracing.request("GET", "/", []):
            assert get_current_span().get_span_context().is_valid
            assert noted(handler) == ("", "")


async def test_the_json_of_a_record_names_the_trace_and_has_no_field_without_one() -> None:
    record = logging.LogRecord("twofold", logging.WARNING, "file", 1, "text", (), None)
    TraceFilter().filter(record)
    assert "trace_id" not in json.loads(json_line(record))
    async with traced() as (app, _):
        tracing = app.telemetry.tracing
        assert tracing is not None
        with tracing.request("GET", "/", []) as span:
            TraceFilter().filter(record)
            fields = json.loads(json_line(record))
            assert f"00-{fields['trace_id']}-{fields['span_id']}-01" == span.traceparent

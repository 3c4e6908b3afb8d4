"""The ids of the present trace for log records, so that a line of a log leads to its trace and back."""

import logging
import sys
from importlib import import_module
from typing import Any, NamedTuple


class TraceIds(NamedTuple):
    """A trace and a span in it, as hexadecimal digits; both are empty where there is none."""

    trace_id: str = ""
    span_id: str = ""


NO_TRACE = TraceIds()


def present_trace() -> TraceIds:
    """The trace and span that the caller is in, if the trace is sampled."""
    if "opentelemetry.trace" not in sys.modules:
        return NO_TRACE
    trace: Any = import_module("opentelemetry.trace")
    span = trace.get_current_span()
    if not span.is_recording():
        return NO_TRACE
    context = span.get_span_context()
    return TraceIds(f"{context.trace_id:032x}", f"{context.span_id:016x}")


class TraceFilter(logging.Filter):
    """Gives each record the attributes `trace_id` and `span_id`, which are empty without a trace. It drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.trace_id, record.span_id = present_trace()
        return True

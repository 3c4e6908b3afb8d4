"""Whether the environment asks for an export by OTLP, and the exporter, which is loaded only then."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

from twofold.errors import WiringError
from twofold.telemetry.instruments import Family
from twofold.world import World

Measure = Callable[[], Awaitable[Sequence[Family]]]

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_ENDPOINTS = {signal: f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT" for signal in ("traces", "metrics")}


class Export(Protocol):
    """Sends spans and metrics to a collector."""

    async def push(self, measure: Measure) -> None:
        """Send the metrics again and again, until this is cancelled. Errors are logged: the next time may succeed."""
        ...

    async def close(self) -> None:
        """Send what is left of the spans."""
        ...


def open_export(world: World, environment: Mapping[str, str] = os.environ) -> Export | None:
    """The export that the variables `OTEL_*` ask for, with its tracer provider set; None where they name no endpoint.

    WiringError where OpenTelemetry is not installed. Call it before the app starts: then the app is traced.
    """
    wanted = frozenset(signal for signal in _ENDPOINTS if _is_wanted(signal, environment))
    if not wanted:
        return None
    try:
        otlp: Any = import_module("twofold.telemetry.otlp")
    except ModuleNotFoundError as error:
        raise WiringError(
            f"{_ENDPOINT} asks for an export to a collector, and {error.name} is not installed. Install "
            "`twofold[otel]`, or set OTEL_SDK_DISABLED=true."
        ) from error
    export: Export = otlp.OtlpExport(world, wanted)
    return export


def _is_wanted(signal: str, environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp") != "otlp":
        return False
    return bool(environment.get(_ENDPOINT) or environment.get(_ENDPOINTS[signal]))

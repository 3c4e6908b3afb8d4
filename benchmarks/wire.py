"""Measures a command over HTTP against a bare ASGI application that reads the same JSON, on the same server."""

from benchmarks.harness import Result, result
from benchmarks.http import measure, serve_app, serve_bare


def wire(rounds: int, seconds: float) -> list[Result]:
    """Requests a second, the log in memory: what the wire itself costs."""
    figures: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(rounds):
        figures["bare"].append(measure("bare ASGI", serve_bare, seconds).rate)
        figures["ours"].append(measure("POST /commands", serve_app, seconds).rate)
    return [result("POST of a command", figures, "ours", "bare", "/s", must=0.15, ambition=0.25)]

"""Measures a command over HTTP: a whole request beside a bare ASGI application, and the parsing of its body alone."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks.harness import Result, result
from benchmarks.http import Deposit, measure, serve_app, serve_bare
from twofold.codec import RequestDecoder
from twofold.codec.edge import parse_strictly
from twofold.codec.known_fields import shape_of


class Line(msgspec.Struct, frozen=True):
    sku: str
    quantity: int


class PlaceOrder(msgspec.Struct, frozen=True):
    order_id: str
    customer_id: str
    lines: list[Line]
    coupon: str | None = None


def order(lines: int) -> PlaceOrder:
    return PlaceOrder("o-4711", "c-12", [Line(f"sku-{n}", 1 + n % 9) for n in range(lines)], "SPRING")


BODIES = {"small body": Deposit("a-1", 100), "nested body": order(3), "body with 100 records": order(100)}


def wire(rounds: int, seconds: float) -> list[Result]:
    """Requests a second, the log in memory: what HTTP itself costs."""
    figures: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(rounds):
        figures["bare"].append(measure("bare ASGI", serve_bare, seconds).rate)
        figures["ours"].append(measure("POST /commands", serve_app, seconds).rate)
    return [result("POST of a command", figures, "ours", "bare", "/s", must=0.15, ambition=0.25)]


def parsing(rounds: int, seconds: float) -> list[Result]:
    """Microseconds to decode a request body, beside a walk over every value, another over the fields, and a decoder."""
    results: list[Result] = []
    for name, message in BODIES.items():
        body = msgspec.json.encode(message)
        ways = {"ours": RequestDecoder(type(message)), "two_walks": two_walks(type(message))}
        figures: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, decode in ways.items():
                figures[way].append(microseconds(decode, body, seconds))
        results.append(result(f"parsing a {name}", figures, "ours", "two_walks", "µs", must=0.5, less=True))
    return results


def two_walks(kind: type) -> Callable[[bytes], Any]:
    """Decodes with nothing proved beforehand."""
    check_fields = shape_of(kind).check
    decode = msgspec.json.Decoder(kind).decode

    def parse(body: bytes) -> Any:
        parsed = parse_strictly(body)
        if check_fields is not None:
            check_fields(parsed)
        return decode(body)

    return parse


def microseconds(decode: Callable[[bytes], Any], body: bytes, seconds: float) -> float:
    """The processor time of one call."""
    calls = 0
    begun = time.process_time()
    while (took := time.process_time() - begun) < seconds / 5:
        for _ in range(100):
            decode(body)
        calls += 100
    return took / calls * 1e6

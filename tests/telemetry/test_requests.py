"""Requests are part of the trace that their headers name, and say which trace they belong to."""

from collections.abc import AsyncIterator

import httpx
import pytest
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanKind, StatusCode

from tests.telemetry.span_helpers import ALL, NONE, Traces, attributes, identity, parent, trace_of, traced
from twofold import App
from twofold.http import Trust, asgi

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
DEPOSIT = {"account_id": "ann", "cents": 5}


class Client:
    """An app over HTTP, in process, and its spans."""

    def __init__(self, app: App, traces: Traces) -> None:
        self.app = app
        self.traces = traces
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(asgi(app)), base_url="http://testserver")


@pytest.fixture(params=[ALL])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    root: Sampler = request.param
    async with traced(root) as (app, traces):
        found = Client(app, traces)
        async with found.http:
            yield found


unsampled = pytest.mark.parametrize("client", [NONE], indirect=True)


async def test_a_request_goes_on_with_the_trace_that_its_header_names(client: Client) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
    answer = await client.http.post("/commands/deposit", json=DEPOSIT, headers=headers)
    request, command = client.traces.one("POST /commands/deposit"), client.traces.one("command deposit")
    assert (request.kind, parent(request), trace_of(request)) == (SpanKind.SERVER, int(SPAN, 16), int(TRACE, 16))
    assert parent(command) == identity(request)
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{identity(request):016x}-01"
    (event,) = (await client.app.log()).events
    assert event.traceparent == f"00-{TRACE}-{identity(command):016x}-01"
    assert attributes(request)["http.route"] == "/commands/deposit"
    assert attributes(request)["http.response.status_code"] == 200


async def test_a_query_is_part_of_the_trace(client: Client) -> None:
    await client.http.get("/queries/balance-of?account_id=ann")
    assert parent(client.traces.one("query balance-of")) == identity(client.traces.one("GET /queries/balance-of"))


@unsampled
async def test_a_caller_can_ask_for_a_sampled_trace(client: Client) -> None:
    await client.http.post("/commands/deposit", json=DEPOSIT, headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert trace_of(client.traces.one("command deposit")) == int(TRACE, 16)


@unsampled
async def test_a_request_of_a_trace_that_is_not_sampled_has_no_spans_and_stores_nothing(client: Client) -> None:
    for headers in ({}, {"traceparent": f"00-{TRACE}-{SPAN}-00"}):
        answer = await client.http.post("/commands/deposit", json=DEPOSIT, headers=headers)
        assert answer.status_code == 200 and "traceresponse" not in answer.headers
    assert client.traces.names == []
    assert [event.traceparent for event in (await client.app.log()).events] == [None, None]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}x-{SPAN}-01",
        f'00-{TRACE}-{SPAN}-01"],"drop',
        "x" * 2_000,
    ],
)
async def test_a_header_that_names_no_trace_is_as_none(client: Client, bad: str) -> None:
    answer = await client.http.post("/commands/deposit", json=DEPOSIT, headers={"traceparent": bad})
    assert answer.status_code == 200
    request = client.traces.one("POST /commands/deposit")
    assert parent(request) is None and trace_of(request) != int(TRACE, 16)
    (event,) = (await client.app.log()).events
    assert event.traceparent is not None and len(event.traceparent) == 55


async def test_an_unknown_path_and_method_do_not_name_a_span(client: Client) -> None:
    answer = await client.http.request("ODD", "/commands/nope-123")
    assert answer.status_code == 404
    assert client.traces.names == ["_OTHER other"]


async def test_a_rejection_is_no_error_and_a_store_that_is_away_is_one(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.http.post("/commands/withdraw", json=DEPOSIT)
    assert client.traces.one("POST /commands/withdraw").status.status_code is StatusCode.UNSET
    await client.app.stop()
    answer = await client.http.post("/commands/deposit", json=DEPOSIT)
    assert answer.status_code == 503
    assert client.traces.one("POST /commands/deposit").status.status_code is StatusCode.ERROR


async def test_probes_and_scrapes_are_counted_and_not_traced(client: Client) -> None:
    for path in ("/health/live", "/health/ready", "/metrics", "/status"):
        await client.http.get(path)
    assert client.traces.names == []
    assert 'twofold_http_requests_total{route="/status",status="200"} 1.0' in (await client.http.get("/metrics")).text


async def test_a_route_is_known_under_a_prefix() -> None:
    async with traced() as (app, traces):
        transport = httpx.ASGITransport(asgi(app, root_path="/shop"))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
            answer = await http.post("/shop/commands/deposit", json=DEPOSIT)
            assert answer.status_code == 200
            text = (await http.get("/shop/metrics")).text
    assert traces.one("POST /commands/deposit")
    assert 'twofold_http_requests_total{route="/commands/deposit",status="200"} 1.0' in text


async def test_pages_of_other_sites_may_send_a_trace_and_read_the_answer() -> None:
    async with traced() as (app, _):
        transport = httpx.ASGITransport(asgi(app, trust=Trust(origins=frozenset({"https://shop.example"}))))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
            origin = {"origin": "https://shop.example"}
            asked = {"access-control-request-method": "POST", "access-control-request-headers": "traceparent"}
            before = await http.options("/commands/deposit", headers=origin | asked)
            assert {"traceparent", "tracestate"} <= set(before.headers["access-control-allow-headers"].split(", "))
            answer = await http.post("/commands/deposit", json=DEPOSIT, headers=origin)
    assert "traceresponse" in answer.headers["access-control-expose-headers"].split(", ")
    assert answer.headers["traceresponse"]

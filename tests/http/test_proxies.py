"""The recipes of the documentation in real proxies: prefix, TLS, streams, large bodies, addresses of clients."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.documentation.code_block_helpers import ROOT
from tests.http.conftest import ROOT as HERE
from tests.http.http_helpers import DEPOSIT
from tests.servers.fixtures import do_without
from tests.servers.reverse_proxy import HOW_TO_GET_ONE, NAME, ReverseProxy, find_proxy
from tests.servers.server import free_port
from twofold.http import Limits

PAGE = (ROOT / "docs/how-to/run-behind-a-proxy.md").read_text("utf-8")
BLOCKS = {"nginx": "nginx", "caddy": "caddyfile"}
STREAM = {"Accept": "text/event-stream"}


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def options() -> list[str]:
    """The options of `twofold serve` that the page says to use."""
    (found,) = re.findall(r"^twofold serve app:app (.*)$", PAGE, re.MULTILINE)
    return shlex.split(found)


class Named(httpx.HTTPTransport):
    """Connects to this machine under the name of the shop, from one of its addresses."""

    def __init__(self, proxy: ReverseProxy, address: str) -> None:
        super().__init__(verify=proxy.trust(), local_address=address)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["sni_hostname"] = NAME
        request.url = request.url.copy_with(host="127.0.0.1")
        return super().handle_request(request)


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """The port of the bank, served with the options of the page."""
    port = free_port()
    command = [Path(sys.executable).parent / "twofold", "serve", "tests.http.proxied_app:app", "--port", str(port)]
    with subprocess.Popen([*command, "--json", *options()], cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["ok"]
        yield port
        process.terminate()


@pytest.fixture(scope="module", params=BLOCKS)
def proxy(request: pytest.FixtureRequest, upstream: int) -> Iterator[ReverseProxy]:
    kind: str = request.param
    if find_proxy(kind) is None:
        do_without(f"no {kind}: {HOW_TO_GET_ONE[kind]}")
    with ReverseProxy(kind, block(BLOCKS[kind]), upstream) as proxy:
        yield proxy


def client_of(proxy: ReverseProxy, address: str = "127.0.0.5") -> httpx.Client:
    return httpx.Client(transport=Named(proxy, address), base_url=f"{proxy.url}/shop", timeout=60)


@pytest.fixture
def client(proxy: ReverseProxy) -> Iterator[httpx.Client]:
    with client_of(proxy) as client:
        yield client


def test_commands_and_queries_are_answered_and_links_have_the_prefix(client: httpx.Client, proxy: ReverseProxy) -> None:
    receipt = client.post("/commands/deposit", json=DEPOSIT)
    assert receipt.status_code == 200
    seen = client.get("/queries/balances", headers={"Twofold-Position": receipt.headers["twofold-position"]})
    assert seen.status_code == 200
    assert client.get("/queries/nope").json()["type"] == "/shop/docs#problem-unknown-message"
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/shop"}]
    assert client.get("/docs/docs.css").status_code == 200
    assert 'data-root="/shop"' in client.get("/console/").text
    assert client.get("/console").headers["location"].endswith("/shop/console/")
    assert client.get("/seen").json()["link"] == f"{proxy.url}/shop/seen"


def test_a_stream_is_not_buffered(client: httpx.Client) -> None:
    with client.stream("GET", "/events", params={"last": 0}, headers=STREAM) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry")
        receipt = client.post("/commands/deposit", json=DEPOSIT).json()
        # The stream is open, so a proxy that collects answers would not have sent this.
        assert next(line for line in lines if line.startswith("id: ")) == f"id: {receipt['token']}"


def test_large_bodies_and_answers_pass_and_larger_ones_get_the_problem(client: httpx.Client) -> None:
    most = Limits().body_bytes
    assert client.post("/read", content=bytes(most)).text == str(most)
    refused = client.post("/read", content=bytes(most + 1))
    assert (refused.status_code, refused.headers["content-type"]) == (413, "application/problem+json")
    assert refused.json()["type"] == "/shop/docs#problem-too-large"
    size = 5_000_000
    assert len(client.get("/queries/long", params={"size": size}).content) > size


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"X-Forwarded-For": "6.6.6.6"},
        {"Forwarded": "for=6.6.6.6;proto=http;host=evil.example"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Proto": "http"},
        {"X-Forwarded-Prefix": "/evil"},
    ],
    ids=lambda forged: next(iter(forged), "nothing"),
)
def test_a_client_cannot_pass_for_another_one_or_change_links(
    client: httpx.Client, proxy: ReverseProxy, forged: dict[str, str]
) -> None:
    seen = client.get("/seen", headers=forged)
    assert (seen.status_code, seen.json()) == (200, {"client": "127.0.0.5", "link": f"{proxy.url}/shop/seen"})


def test_streams_are_limited_for_each_client(proxy: ReverseProxy) -> None:
    most = Limits().streams_per_client
    with ExitStack() as stack:

        def statuses(address: str, count: int) -> set[int]:
            client = stack.enter_context(client_of(proxy, address))
            streams = [stack.enter_context(client.stream("GET", "/status", headers=STREAM)) for _ in range(count)]
            return {stream.status_code for stream in streams}

        assert statuses("127.0.0.6", most) == {200}
        assert statuses("127.0.0.6", 1) == {503}
        assert statuses("127.0.0.7", 1) == {200}


def test_another_name_is_refused(proxy: ReverseProxy, client: httpx.Client) -> None:
    # The first server of nginx answers to every name, so Twofold must not.
    answer = client.get("/seen", headers={"Host": "evil.example"})
    assert answer.status_code == 403 or (proxy.name == "caddy" and answer.content == b"")

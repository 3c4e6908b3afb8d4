"""Proxies that are named tell who asks, by which scheme and host and under which prefix. Others are not trusted."""

from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from tests.http.bank_server import open_bank
from tests.http.http_helpers import problem
from twofold import InvalidMessage, WiringError
from twofold.http import Trust, asgi
from twofold.http.forwarding import Forwarding

PROXY = "10.0.0.7"


def scope(*headers: tuple[str, str], peer: str | None = PROXY, path: str = "/status") -> dict[str, Any]:
    return {
        "client": None if peer is None else (peer, 4711),
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "headers": [(b"host", b"inner"), *((name.lower().encode(), value.encode()) for name, value in headers)],
    }


def seen(
    *headers: tuple[str, str], peer: str | None = PROXY, proxies: Iterable[str] = (PROXY,)
) -> tuple[str, str, str]:
    """Client, scheme and host of a request."""
    found = Forwarding(proxies).applied(scope(*headers, peer=peer))
    hosts = [value.decode() for name, value in found["headers"] if name == b"host"]
    client = found["client"]
    return ("none" if client is None else client[0], found["scheme"], *hosts)


def test_what_a_named_proxy_tells_is_taken() -> None:
    told = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "shop.example")]
    assert seen(*told) == ("203.0.113.9", "https", "shop.example")
    assert seen(("Forwarded", 'for="[2001:db8::1]:80";proto=https;host="shop.example:8443"')) == (
        "2001:db8::1",
        "https",
        "shop.example:8443",
    )
    assert seen() == (PROXY, "http", "inner")


@pytest.mark.parametrize("peer", ["10.0.0.8", "203.0.113.9", "::1", None])
def test_all_others_are_not_believed(peer: str | None) -> None:
    told = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-Proto", "https"), ("Forwarded", "for=2.2.2.2;host=x")]
    assert seen(*told, peer=peer) == (peer or "none", "http", "inner")
    assert seen(*told, peer=peer, proxies=()) == (peer or "none", "http", "inner")


@pytest.mark.parametrize(
    ("proxies", "peer"),
    [(["10.0.0.0/8"], "10.9.9.9"), (["fd00::/8"], "fd00::7"), (["10.0.0.0/8"], "::ffff:10.0.0.7"), (["unix"], None)],
)
def test_proxies_are_named_by_address_network_or_socket(proxies: list[str], peer: str | None) -> None:
    assert seen(("X-Forwarded-For", "203.0.113.9"), peer=peer, proxies=proxies)[0] == "203.0.113.9"


def test_what_a_client_puts_before_the_entry_of_its_proxy_is_not_believed() -> None:
    forged = [("X-Forwarded-For", "6.6.6.6, 203.0.113.9"), ("X-Forwarded-Proto", "https, http")]
    assert seen(*forged) == ("203.0.113.9", "http", "inner")
    assert seen(("Forwarded", "for=6.6.6.6;proto=https;host=evil.example, for=203.0.113.9")) == (
        "203.0.113.9",
        "http",
        "inner",
    )


def test_the_entries_of_several_named_proxies_are_skipped() -> None:
    proxies = [PROXY, "10.0.0.8"]
    lines = [("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.9, 10.0.0.8")]
    assert seen(*lines, ("X-Forwarded-Proto", "https, http"), proxies=proxies) == ("203.0.113.9", "https", "inner")
    assert seen(("Forwarded", "for=203.0.113.9;proto=https, for=10.0.0.8;proto=http"), proxies=proxies)[:2] == (
        "203.0.113.9",
        "https",
    )


@pytest.mark.parametrize("entry", ["unknown", "_hidden", "1.2.3.4.5", "evil\x7f", "[::1"])
def test_a_client_without_an_address_is_unknown(entry: str) -> None:
    assert seen(("X-Forwarded-For", entry))[0] == "unknown"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Forwarded-Proto", "javascript"),
        ("X-Forwarded-Prefix", "//evil.example"),
        ("X-Forwarded-Prefix", "/a b"),
        ("X-Forwarded-Prefix", 'shop"'),
        ("Forwarded", 'for="1.1.1.1'),
        ("Forwarded", "=1.1.1.1"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused_by_its_name(header: str, value: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        Forwarding([PROXY]).applied(scope((header, value)))
    assert refused.value.field == header


@pytest.mark.parametrize("told", ["for=6.6.6.6", "for=203.0.113.9;proto=http", "for=203.0.113.9;host=evil.example"])
def test_a_client_cannot_use_the_header_that_its_proxy_does_not_set(told: str) -> None:
    own = [("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "shop.example")]
    with pytest.raises(InvalidMessage, match="differs"):
        seen(*own, ("Forwarded", told))
    assert seen(*own, ("Forwarded", "for=203.0.113.9;proto=https"))[0] == "203.0.113.9"


@pytest.mark.parametrize("proxy", ["proxy.example", "10.0.0.7/8", "10.0.0.7:80", "*", ""])
def test_a_proxy_that_is_no_address_is_refused_with_the_form(proxy: str) -> None:
    with pytest.raises(WiringError, match=r"10\.0\.0\.0/8"):
        Forwarding([proxy])


@pytest.mark.parametrize(
    ("root_path", "prefix", "path", "found"),
    [
        ("", None, "/status", ("", "/status")),
        ("/shop", None, "/status", ("/shop", "/shop/status")),
        ("/shop/", None, "/shop/status", ("/shop", "/shop/status")),
        ("/shop", None, "/shopping", ("/shop", "/shop/shopping")),
        ("/shop", "/outer", "/shop/status", ("/outer", "/outer/status")),
        ("", "/shop/", "/status", ("/shop", "/shop/status")),
        ("", "/status", "/status", ("/status", "/status/status")),
        ("/shop", "/", "/status", ("", "/status")),
    ],
)
def test_the_prefix_stands_before_the_path_once(
    root_path: str, prefix: str | None, path: str, found: tuple[str, str]
) -> None:
    headers = [] if prefix is None else [("X-Forwarded-Prefix", prefix)]
    placed = Forwarding([PROXY], root_path).applied(scope(*headers, path=path))
    assert (placed.get("root_path", ""), placed["path"]) == found
    assert placed["raw_path"].decode() == placed["path"]


async def test_the_host_that_a_proxy_tells_is_the_one_that_must_be_allowed() -> None:
    trust = Trust(hosts=frozenset({"shop.example"}), proxies=frozenset({"127.0.0.1"}))
    app = open_bank()
    api = asgi(app, trust=trust)
    headers = {"X-Forwarded-For": "203.0.113.9", "Host": "inner"}
    async with app, httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://shop.example") as http:
        problem(await http.get("/health/live", headers=headers), 403)
        headers["X-Forwarded-Host"] = "shop.example"
        assert (await http.get("/health/live", headers=headers)).status_code == 200
        problem(await http.get("/health/live", headers={"X-Forwarded-Host": "evil.example"}), 403)
        assert problem(await http.get("/health/live", headers={"X-Forwarded-Proto": "x"}), 400)["field"]

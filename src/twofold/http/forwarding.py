"""Where a request comes from and under which prefix it is public, as named proxies and the root path say."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import quote

from starlette.types import Scope

from twofold.errors import InvalidMessage, WiringError
from twofold.http.exchange import without_prefix

UNIX_SOCKET = "unix"
"""Names every proxy that connects over a Unix socket, where it has no address."""

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network
_Values = dict[str, str]

_PREFIX = re.compile(r"(?:/[\w.~+-]+)+", re.ASCII)
_PAIR = re.compile(r"\s*([\w!#$&'*+.^`|~-]+)=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;,\"]*))\s*", re.ASCII)
_HOST_AND_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?|([^:]+):\d+")
_READ = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-prefix", b"forwarded"}


class RequestSource(NamedTuple):
    """What the proxies state of one request; None where they do not."""

    client: str | None = None
    scheme: str | None = None
    host: str | None = None


class Forwarding:
    """Rewrites the scope of a request: client, scheme and host as named proxies state them, and the public root path.

    `proxies` are addresses, networks, or `unix`. Of all others the headers are ignored. `root_path` is the prefix under
    which a proxy publishes the app, whether the proxy strips it or not.
    """

    def __init__(self, proxies: Iterable[str] = (), root_path: str = "") -> None:
        given = set(proxies)
        self._unix = UNIX_SOCKET in given
        self._networks = [_network(proxy) for proxy in given - {UNIX_SOCKET}]
        self._root = checked_root_path(root_path)

    def applied(self, scope: Scope) -> Scope:
        """The scope as the client sees the request. InvalidMessage where what a named proxy states is contradictory."""
        root: str = scope.get("root_path", "")
        stated, prefix = RequestSource(), None
        if self._trusts_peer(scope):
            given = _given(scope["headers"])
            if given:
                stated, prefix = self._stated(given)
        elif not root and not self._root:
            return scope
        scope = dict(scope)
        if stated.client is not None:
            scope["client"] = (stated.client, 0)
        if stated.scheme is not None:
            scope["scheme"] = stated.scheme
        if stated.host is not None:
            headers = [pair for pair in scope["headers"] if pair[0] != b"host"]
            scope["headers"] = [*headers, (b"host", stated.host.encode("latin-1"))]
        _place(scope, self._root, self._root if prefix is None else prefix)
        return scope

    def _trusts_peer(self, scope: Scope) -> bool:
        client = scope.get("client")
        if client is None:
            return self._unix
        return bool(self._networks) and self._trusts(client[0])

    def _trusts(self, client: str) -> bool:
        address = _address(client)
        return address is not None and any(address in network for network in self._networks)

    def _stated(self, given: dict[bytes, str]) -> tuple[RequestSource, str | None]:
        """What the headers say, and the prefix. Proxies append to lists, so only what named ones wrote is read."""
        x_for = _split(given.get(b"x-forwarded-for"))
        depth = self._depth(x_for)
        stated = RequestSource(
            _client_of(x_for[-depth]) if x_for else None,
            _scheme_of(_at(_split(given.get(b"x-forwarded-proto")), depth)),
            _at(_split(given.get(b"x-forwarded-host")), depth),
        )
        if b"forwarded" in given:
            stated = _agreed(stated, self._forwarded(given[b"forwarded"]))
        prefix = _at(_split(given.get(b"x-forwarded-prefix")), depth)
        return stated, None if prefix is None else _prefix_of(prefix)

    def _forwarded(self, text: str) -> RequestSource:
        elements = _elements(text)
        clients = [element.get("for", "unknown") for element in elements]
        last = elements[-self._depth(clients)]
        client = _client_of(last["for"]) if "for" in last else None
        return RequestSource(client, _scheme_of(last.get("proto")), last.get("host"))

    def _depth(self, clients: list[str]) -> int:
        """How many entries from the right named proxies wrote; at least one."""
        depth = 1
        while depth < len(clients) and self._trusts(_client_of(clients[-depth])):
            depth += 1
        return depth


def checked_root_path(path: str) -> str:
    """A root path without a slash at its end. WiringError where it is none."""
    path = path.rstrip("/")
    if path and not _PREFIX.fullmatch(path):
        raise WiringError(f"'{path}' is no root path. Write the path only, with a slash first: /shop.")
    return path


def check_proxy(proxy: str) -> None:
    """WiringError where this is not an address, a network or `unix`."""
    if proxy != UNIX_SOCKET:
        _network(proxy)


def _network(text: str) -> _Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise WiringError(
            f"'{text}' is not the address of a proxy. Write an address (10.0.0.7), a network (10.0.0.0/8), or unix for "
            "all that connect over a Unix socket."
        ) from error


def _address(text: str) -> _Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _given(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """The headers of proxies. One that is repeated is one list."""
    given: dict[bytes, str] = {}
    for name, value in headers:
        if name in _READ:
            text = value.decode("latin-1")
            given[name] = f"{given[name]},{text}" if name in given else text
    return given


def _split(text: str | None) -> list[str]:
    return [] if text is None else [part for part in (part.strip() for part in text.split(",")) if part]


def _at(values: list[str], depth: int) -> str | None:
    return values[-min(depth, len(values))] if values else None


def _client_of(text: str) -> str:
    """The address in an entry, without its port; `unknown` where it has none."""
    match = _HOST_AND_PORT.fullmatch(text)
    address = _address((match[1] or match[2]) if match else text)
    return "unknown" if address is None else str(address)


def _scheme_of(text: str | None) -> str | None:
    if text is None:
        return None
    if text.lower() not in ("http", "https"):
        raise _wrong("X-Forwarded-Proto", "The scheme is http or https.")
    return text.lower()


def _prefix_of(text: str) -> str:
    path = text.rstrip("/")
    if path and not _PREFIX.fullmatch(path):
        raise _wrong("X-Forwarded-Prefix", "The prefix is a path with a slash first: /shop.")
    return path


def _elements(text: str) -> list[_Values]:
    """The elements of `Forwarded` (RFC 7239), at least one."""
    elements: list[_Values] = [{}]
    place = 0
    while match := _PAIR.match(text, place):
        quoted = match[2]
        value = match[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        elements[-1][match[1].lower()] = value
        place = match.end()
        if text[place : place + 1] == ",":
            elements.append({})
        elif text[place : place + 1] != ";":
            break
        place += 1
    if place != len(text):
        raise _wrong("Forwarded", "It is not a list of pairs (RFC 7239): for=192.0.2.1;proto=https.")
    return elements


def _agreed(x_stated: RequestSource, stated: RequestSource) -> RequestSource:
    """Both kinds of headers as one: a client may have sent the kind that its proxy does not set."""
    for one, other in zip(x_stated, stated, strict=True):
        if one is not None and other is not None and one != other:
            raise _wrong(
                "Forwarded", "It differs from X-Forwarded-*. Let the proxy remove the one that it does not set."
            )
    return RequestSource(*(one if other is None else other for one, other in zip(x_stated, stated, strict=True)))


def _wrong(field: str, text: str) -> InvalidMessage:
    return InvalidMessage(f"The header {field} of a proxy cannot be used. {text}", field=field)


def _place(scope: Scope, stripped: str, prefix: str) -> None:
    """Put the public prefix before the root path and the path, once, whether or not the path has it already."""
    root: str = scope.get("root_path", "")
    path = without_prefix(without_prefix(scope["path"], stripped), root)
    raw: bytes | None = scope.get("raw_path")
    scope["root_path"] = prefix + root
    scope["path"] = scope["root_path"] + path
    if raw is not None:
        sent = raw.partition(b"?")[0].decode("latin-1")
        sent = without_prefix(without_prefix(sent, stripped), quote(root))
        scope["raw_path"] = (prefix + quote(root) + sent).encode("latin-1")

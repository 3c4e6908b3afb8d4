"""Which requests are trusted: the hosts to answer to, the origins that may send, and what our own pages may do."""

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import msgspec
from starlette.types import Scope

from twofold.errors import InvalidMessage, NotAuthorised, WiringError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "testserver"})

CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)

HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
"""The headers of every answer, also of mounted pages that do not set them themselves."""

_SINGLE = frozenset(
    b"host authorization content-length content-type content-encoding idempotency-key origin sec-fetch-site "
    b"twofold-position transfer-encoding last-event-id".split()
)
_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Trust(msgspec.Struct, frozen=True):
    """Which requests are answered, and whose word is taken.

    `hosts` are the names that a request may be addressed to, beside the address of the server itself and, on a loopback
    address, the names of this machine: a page of another site could reach the server by a name of its own (DNS
    rebinding). `origins` are the sites, beside the host itself, whose pages may send and read: `https://shop.example`;
    with `credentials` also with cookies. `proxies` are the addresses and networks whose `X-Forwarded-*` and `Forwarded`
    are trusted. WiringError where one is not of its form.
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    credentials: bool = False
    proxies: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for host in self.hosts:
            _check_host_name(host)
        for origin in self.origins:
            _check_origin_name(origin)

    def check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """InvalidMessage or NotAuthorised for a request to another host, or from a page of another site."""
        if len(headers) != len(scope["headers"]):
            _check_single(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        self._check_host(host, scope)
        origin = headers.get(b"origin")
        if origin is not None or b"sec-fetch-site" in headers:
            streams = b"text/event-stream" in headers.get(b"accept", b"")
            if streams or scope["method"] not in _READING or b"access-control-request-method" in headers:
                self._check_origin(origin, headers.get(b"sec-fetch-site"), host)

    def _check_host(self, host: str, scope: Scope) -> None:
        if not host and scope.get("http_version", "1.1") != "1.0":
            raise InvalidMessage("The header Host is missing. Send the host name of this server.", field="Host")
        server = scope.get("server")
        if not _answers_to(self.hosts, host, str(server[0]) if server else ""):
            raise NotAuthorised(
                "This server does not answer to that Host. Use one of its names, or add this one to the allowed hosts: "
                "`--allow-host`, or `Trust(hosts=…)`.",
                field="Host",
            )

    def _check_origin(self, origin: bytes | None, site: bytes | None, host: str) -> None:
        url = "" if origin is None else origin.decode("latin-1")
        if url in self.origins:
            return
        parts = _split(url)
        own = parts is not None and parts[0] in ("http", "https") and parts[1].lower() == host.lower() != ""
        if (origin is not None and not own) or site == b"cross-site":
            raise NotAuthorised(
                "A page of another site sent this request. Send it from a page of this site, or add that site to "
                "the allowed origins: `--allow-origin`, or `Trust(origins=…)`.",
                field="Origin",
            )


@lru_cache(maxsize=256)
def _answers_to(hosts: frozenset[str], host: str, address: str) -> bool:
    """Whether a server at an address answers to a Host."""
    name = _name_of(host)
    if name in hosts:
        return True
    if name in LOOPBACK_NAMES and (is_loopback(address) or not (hosts or _is_address(address))):
        return True
    # A request for the address itself was not led here by a name.
    return name == address and _is_address(address)


def is_loopback(address: str) -> bool:
    """Whether an address, not a name, can be reached from this machine only."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback


def is_of_others(address: str) -> bool:
    """Whether an address is that of another machine; a word that is no address is not (a socket of this machine)."""
    return _is_address(address) and not is_loopback(address)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _check_host_name(host: str) -> None:
    if host != _name_of(host) or not (_is_address(host) or _HOST_NAME.fullmatch(host)):
        raise WiringError(
            f"'{host}' is not the name of a host. Write the name only, in small letters, without a port: shop.example."
        )


def _check_origin_name(origin: str) -> None:
    parts = _split(origin)
    scheme, place = parts or ("", "")
    default = ":443" if scheme == "https" else ":80"
    if (
        scheme not in ("http", "https")
        or origin != f"{scheme}://{place}"
        or not _name_of(place)
        or place != place.lower()
    ):
        raise WiringError(
            f"'{origin}' is not an origin. Write scheme and host as a browser does, without a path: https://shop.example."
        )
    if place.endswith(default):
        raise WiringError(f"Browsers leave out the port of '{origin}'. Write {origin.removesuffix(default)}.")


def _check_single(headers: list[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in _SINGLE:
            field = name.decode("latin-1").title()
            raise InvalidMessage(f"The header {field} is repeated. Send it once.", field=field)
        seen.add(name)


def _name_of(host: str) -> str:
    parts = _split(f"//{host}")
    if parts is None or "@" in host or any(letter in host for letter in "/?#\\ "):
        return ""
    name = parts[1].lower()
    bare, _, port = name.rpartition(":")
    if bare and port.isdecimal() and (":" not in bare or bare.endswith("]")):
        name = bare
    return name.removeprefix("[").removesuffix("]")


def _split(url: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.scheme, parts.netloc

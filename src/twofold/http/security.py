"""Which requests are trusted: the hosts to answer to, the origins that may send, and what our own pages may do."""

from functools import lru_cache
from urllib.parse import urlsplit

import msgspec
from starlette.types import Scope

from twofold.errors import InvalidMessage, NotAuthorised

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
    b"host content-length content-type content-encoding idempotency-key origin sec-fetch-site twofold-position "
    b"transfer-encoding last-event-id".split()
)
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Trust(msgspec.Struct, frozen=True):
    """Which requests are answered.

    `hosts` are the names that a request may be addressed to. Without them, requests on a loopback address must use a
    name of this machine (against DNS rebinding), and all others may use any name. `origins` are the sites, beside the
    host itself, whose pages may send commands: `https://shop.example`.
    """

    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()

    def check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """InvalidMessage or NotAuthorised for a request to another host, or from a page of another site."""
        if len(headers) != len(scope["headers"]):
            _check_single(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        self._check_host(host, scope)
        origin = headers.get(b"origin")
        if origin is not None or b"sec-fetch-site" in headers:
            streams = b"text/event-stream" in headers.get(b"accept", b"")
            if streams or scope["method"] not in _READING:
                self._check_origin(origin, headers.get(b"sec-fetch-site"), host)

    def _check_host(self, host: str, scope: Scope) -> None:
        hosts = self.hosts
        if hosts is None:
            server = scope.get("server")
            if not server or not is_loopback(server[0]):
                return
            hosts = LOOPBACK_NAMES
        if not host and scope.get("http_version", "1.1") != "1.0":
            raise InvalidMessage("The header Host is missing. Send the host name of this server.", field="Host")
        if _name_of(host) not in hosts:
            raise NotAuthorised(
                "This server does not answer to that Host. Use one of its names, or add this one to the allowed hosts.",
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
                "the allowed origins.",
                field="Origin",
            )


def is_loopback(address: object) -> bool:
    """Whether an address can be reached from this machine only."""
    return isinstance(address, str) and (address in ("localhost", "::1") or address.startswith("127."))


def _check_single(headers: list[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in _SINGLE:
            field = name.decode("latin-1").title()
            raise InvalidMessage(f"The header {field} is repeated. Send it once.", field=field)
        seen.add(name)


@lru_cache(maxsize=256)
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

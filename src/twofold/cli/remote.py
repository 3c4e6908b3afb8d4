"""In charge of asking a running `serve`: JSON over HTTP, and its problems as the errors they stand for."""

import http.client
import ipaddress
import math
import urllib.request
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import click
import msgspec

from twofold.domain.events import kebab_case
from twofold.errors import (
    CommandIdReused,
    Conflict,
    InvalidMessage,
    NotAuthorised,
    Refused,
    Rejected,
    TwofoldError,
    Unavailable,
    UndeclaredAccess,
    UnknownMessage,
    WiringError,
)

SECONDS = 60.0
"""Longest time without a word from the server: longer than it takes over any request of its own."""
_MOST_BYTES = 64 * 1_048_576

url_option = click.option(
    "--url",
    metavar="URL",
    help="Ask the `serve` that runs there (http://127.0.0.1:8000) instead of opening the stores.",
)

_FAMILIES: dict[str, type[Refused] | type[Conflict]] = {
    kebab_case(each.__name__): each
    for each in (NotAuthorised, InvalidMessage, UnknownMessage, UndeclaredAccess, CommandIdReused, Conflict)
}


class Remote:
    """One running `serve`. Paths begin with `/`; whoever builds one from names has quoted them.

    Raises what the server says, as the error it stands for there, and Unavailable where no server answers in time.
    """

    def __init__(self, url: str, *, seconds: float = SECONDS) -> None:
        self.url = _checked(url)
        self._seconds = seconds
        # A proxy is for the world outside: what runs on this machine is asked itself.
        no_proxy = [urllib.request.ProxyHandler({})] if _is_here(self.url) else []
        self._opener = urllib.request.build_opener(_Stay, *no_proxy)

    def get(self, path: str) -> Any:
        """What is there, decoded from JSON."""
        return self._ask(urllib.request.Request(f"{self.url}{path}"))

    def post(self, path: str, body: Any = None) -> Any:
        """What the server answers to `body`, which is sent as JSON ({} where there is none)."""
        sent = msgspec.json.encode({} if body is None else body)
        headers = {"content-type": "application/json"}
        return self._ask(urllib.request.Request(f"{self.url}{path}", data=sent, headers=headers, method="POST"))

    def _ask(self, request: urllib.request.Request) -> Any:
        request.add_header("accept", "application/json")
        try:
            with self._opener.open(request, timeout=self._seconds) as answer:
                body = answer.read(_MOST_BYTES)
        except HTTPError as error:
            with error:
                raise _problem(self.url, error) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"{self.url} does not answer: {error}. Is `twofold serve` running there? Without --url the stores "
                "themselves are opened."
            ) from error
        if not body:
            return None
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise WiringError(f"What answers at {self.url} is no `twofold serve`: it does not speak JSON.") from error


def remote(url: str) -> Remote:
    """The `serve` that runs at a URL. WiringError, with the cure, where that is no URL of one."""
    return Remote(url)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere: a POST would arrive there as a GET."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known, parts = False, urlsplit("")
    if not known or "@" in parts.netloc or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise WiringError("--url takes the address of a running `serve`: http://127.0.0.1:8000.")
    return url.rstrip("/")


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _problem(url: str, error: HTTPError) -> TwofoldError:
    """The error that an answer which is none stands for."""
    try:
        said = msgspec.json.decode(error.read(_MOST_BYTES), type=dict[str, Any])
    except (msgspec.DecodeError, OSError, http.client.HTTPException):
        said = {}
    kind = str(said.get("type", "")).rpartition("#problem-")[2]
    detail = str(said.get("detail") or said.get("title") or "")
    if not detail:
        status = f"{error.code} {error.reason}"
        if error.code in (429, 502, 503, 504):
            return Unavailable(f"{url} answers {status}: the server behind it is not there.")
        return WiringError(f"{url} answers {status}, which `twofold serve` does not. Is it the right address?")
    if kind == "rejected":
        return Rejected(str(said.get("code", kind)), detail)
    if kind == "unavailable":
        return Unavailable(detail, lag=said.get("lag"), retry_after=_seconds(error.headers.get("retry-after")))
    family = _FAMILIES.get(kind, Refused)
    return family(detail, field=said.get("field")) if issubclass(family, Refused) else family(detail)


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 1)
    except ValueError:
        return 1.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 1.0

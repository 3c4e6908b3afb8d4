"""HTTP requests to a running `serve`: JSON in, JSON out, and its problems as the errors they stand for."""

import http.client
import ipaddress
import math
import os
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
    GenerationChanged,
    InvalidMessage,
    NotAuthenticated,
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
"""Timeout of a request: longer than the server takes for any of them."""
_MOST_BYTES = 64 * 1_048_576

TOKEN_VARIABLE = "TWOFOLD_TOKEN"
"""The environment variable with the API key or token of requests. An option would show it to all users of a machine."""

url_option = click.option(
    "--url",
    metavar="URL",
    help="Let the `serve` at this address (it prints it: http://HOST:PORT) do it instead of opening the stores.",
)

_FAMILIES: dict[str, type[Refused] | type[Conflict]] = {
    kebab_case(family.__name__): family
    for family in (
        *(NotAuthenticated, NotAuthorised, InvalidMessage, UnknownMessage, UndeclaredAccess, CommandIdReused),
        *(Conflict, GenerationChanged),
    )
}


class Remote:
    """One running `serve`. Paths begin with `/`; names in them are quoted.

    Requests raise the error that the server reports, and Unavailable where no server answers in time. WiringError
    where `url` is not the address of a server.
    """

    def __init__(self, url: str, *, seconds: float = SECONDS) -> None:
        self.url = _checked(url)
        self._seconds = seconds
        self.date = ""
        """The clock of the server at its last response, as HTTP writes it; empty if it sends none."""
        # Requests to this machine use no proxy.
        no_proxy = [urllib.request.ProxyHandler({})] if _is_here(self.url) else []
        self._opener = urllib.request.build_opener(_NoRedirects, *no_proxy)

    def get(self, path: str) -> Any:
        """The response, decoded from JSON."""
        return self._ask(urllib.request.Request(f"{self.url}{path}"))

    def post(self, path: str, body: Any = None) -> Any:
        """The response to `body`, which is sent as JSON ({} where there is none)."""
        sent = msgspec.json.encode({} if body is None else body)
        headers = {"content-type": "application/json"}
        return self._ask(urllib.request.Request(f"{self.url}{path}", data=sent, headers=headers, method="POST"))

    def _ask(self, request: urllib.request.Request) -> Any:
        request.add_header("accept", "application/json")
        if token := os.environ.get(TOKEN_VARIABLE):
            request.add_header("authorization", f"Bearer {token}")
        try:
            with self._opener.open(request, timeout=self._seconds) as response:
                self.date = response.headers.get("date") or ""
                body = response.read(_MOST_BYTES)
        except HTTPError as error:
            with error:
                raise _problem(self.url, error) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            reason = getattr(reason, "strerror", None) or reason
            raise Unavailable(
                f"{self.url} does not answer: {reason}. Start `twofold serve` there, check the address, or leave out "
                "--url to open the stores."
            ) from error
        if not body:
            return None
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise WiringError(
                f"The server at {self.url} is not a `twofold serve`: it does not answer with JSON. Check the address."
            ) from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, because it would turn a POST into a GET."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known, parts = False, urlsplit("")
    if not known or "@" in parts.netloc or parts.query or parts.fragment or not url.isascii() or not url.isprintable():
        raise WiringError("--url must be the address that a running `serve` prints, in the form http://HOST:PORT.")
    return url.rstrip("/")


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _problem(url: str, error: HTTPError) -> TwofoldError:
    """The error that an HTTP error response stands for."""
    try:
        problem = msgspec.json.decode(error.read(_MOST_BYTES), type=dict[str, Any])
    except (msgspec.DecodeError, OSError, http.client.HTTPException):
        problem = {}
    kind = str(problem.get("type", "")).rpartition("#problem-")[2]
    detail = str(problem.get("detail") or problem.get("title") or "")
    if not detail:
        status = f"{error.code} {error.reason}"
        if error.code in (429, 502, 503, 504):
            return Unavailable(f"{url} answers {status}: no server is available behind it. Try again later.")
        return WiringError(f"{url} answers {status}, which `twofold serve` never does. Check the address.")
    if kind == "not-authenticated" and TOKEN_VARIABLE not in os.environ:
        detail += f" Put an API key or token into the environment variable {TOKEN_VARIABLE}."
    if kind == "rejected":
        return Rejected(str(problem.get("code", kind)), detail)
    if kind == "unavailable":
        return Unavailable(detail, lag=problem.get("lag"), retry_after=_seconds(error.headers.get("retry-after")))
    family = _FAMILIES.get(kind, Refused)
    return family(detail, field=problem.get("field")) if issubclass(family, Refused) else family(detail)


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 1)
    except ValueError:
        return 1.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 1.0

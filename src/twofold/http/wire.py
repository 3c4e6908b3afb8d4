"""What all routes share: the app, the limits and what enforces them, the streams, who may call, and strict reading."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from twofold.access.rules import INSPECT, PUBLIC, Right
from twofold.app import App
from twofold.codec import RequestDecoder
from twofold.errors import NotAuthenticated, NotAuthorised
from twofold.http.budgets import Budgets
from twofold.http.exchange import Exchange
from twofold.http.limits import Deadlines, Limits, Quotas, took_too_long
from twofold.http.parameters import QueryParameter, read_parameters
from twofold.http.problems import HttpRefused
from twofold.http.security import is_loopback, is_of_others
from twofold.http.session_cookie import token_in_cookie
from twofold.http.streams import Streams

T = TypeVar("T")

_JSON_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})

_FORWARDED = frozenset({b"x-forwarded-for", b"forwarded", b"via"})
NO_PARAMETERS: Mapping[str, QueryParameter] = {}


class Wire:
    """One app as it is served over HTTP."""

    def __init__(self, app: App, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.quotas = Quotas(limits)
        self.budgets = Budgets(app.world, limits)
        self.deadlines = Deadlines(app.world, min(1.0, limits.request_seconds / 4, limits.body_seconds / 4))
        self.streams = Streams(app.world, limits, self.deadlines)

    async def admit(self, exchange: Exchange, right: Right) -> None:
        """Establish who sends a request. NotAuthenticated or NotAuthorised where they have not this right.

        A stream asks again from time to time: a key may be revoked, and a token expire.
        """
        if right == PUBLIC:
            return
        if self.app.access.is_open:
            self._refuse_others(exchange)
        await self.identify(exchange)
        self.app.access.check(exchange.actor, right)
        if self.app.authentication:
            exchange.readmit = partial(self.admit, exchange, right)

    async def admit_anybody(self, exchange: Exchange) -> None:
        """Establish who sends a request, if anybody is known. Credentials that are not valid are nobody's."""
        with suppress(NotAuthenticated):
            await self.identify(exchange)

    async def identify(self, exchange: Exchange) -> None:
        """Establish who sends a request: by its headers, or else by its session, which may have ended.

        NotAuthenticated where the credentials in its headers are wrong.
        """
        if not self.app.authentication:
            return
        headers: dict[str, str] = {}
        for raw, value in exchange.scope["headers"]:
            # A name that is repeated has all its values: who reads one of them would be deceived by another.
            name = raw.decode("latin-1")
            headers[name] = (
                f"{headers[name]}, {value.decode('latin-1')}" if name in headers else value.decode("latin-1")
            )
        if "authorization" in headers or (token := token_in_cookie(exchange)) is None:
            exchange.actor = await self.in_time(self.app.authentication.actor_of(headers))
            return
        with suppress(NotAuthenticated):
            by_session = headers | {"authorization": f"Bearer {token}"}
            exchange.actor = await self.in_time(self.app.authentication.actor_of(by_session))

    def shows_texts(self, exchange: Exchange) -> bool:
        """Whether this caller, who was admitted, may see the texts of errors and the names of parked keys, as operators
        do. Where there are no access rules: who is on this machine, and not behind a proxy."""
        if not self.app.access.is_open:
            return self.app.access.allows(exchange.actor, INSPECT)
        return is_loopback(exchange.client) and _FORWARDED.isdisjoint(exchange.headers)

    def _refuse_others(self, exchange: Exchange) -> None:
        """NotAuthorised for a request from another machine, whatever server this runs under."""
        if is_of_others(exchange.client) or not _FORWARDED.isdisjoint(exchange.headers):
            raise NotAuthorised(
                "This app has no access rules, so it answers requests of its own machine only, and none of a proxy. "
                "Say who may do what: App(…, authenticate=[…], access=[Allow(…), …])."
            )

    def parameters(self, exchange: Exchange, known: Mapping[str, QueryParameter] = NO_PARAMETERS) -> dict[str, Any]:
        """The fields of the query string. InvalidMessage, naming the parameter, where one is wrong or not `known`."""
        return read_parameters(exchange.query_string, known, self.limits)

    async def in_time(self, work: Awaitable[T]) -> T:
        """The result of `work`; Unavailable where it takes longer than a request may."""
        return await self.deadlines.within(self.limits.request_seconds, work, took_too_long)

    def body_reader(self, kind: type) -> Callable[[Exchange], Awaitable[Any]]:
        """A function that reads a body as an instance of `kind`.

        It raises InvalidMessage, naming the field, for a body that does not fit, HttpRefused for one that is not JSON,
        too large or too slow, and ClientGone where the client left.
        """
        limits, decode = self.limits, RequestDecoder(kind)

        async def read(exchange: Exchange) -> Any:
            _check_type(exchange.headers)
            body = exchange.body(limits.body_bytes)
            return decode(await self.deadlines.within(limits.body_seconds, body, _too_slow))

        return read


def _check_type(headers: dict[bytes, bytes]) -> None:
    content_type = headers.get(b"content-type", b"")
    if content_type not in _JSON_TYPES and content_type.lower().replace(b'"', b"") not in _JSON_TYPES:
        raise _not_json("Content-Type", "The body must be JSON in UTF-8. Send `Content-Type: application/json`.")
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise _not_json("Content-Encoding", "A compressed body is not accepted. Leave out Content-Encoding.")


def _not_json(field: str, message: str) -> HttpRefused:
    return HttpRefused("not-json", message, field=field, close=True)


def _too_slow() -> HttpRefused:
    return HttpRefused("too-slow", "The body did not arrive in time. Send it again.", close=True)

"""What all routes share: the app, the limits and what enforces them, the streams, and who calls."""

from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import msgspec

from twofold.app import App
from twofold.http.exchange import Exchange
from twofold.http.limits import Deadlines, Limits, Quotas, took_too_long
from twofold.http.parameters import QueryParameter, read_parameters
from twofold.http.streams import Streams

T = TypeVar("T")

NO_PARAMETERS: Mapping[str, QueryParameter] = {}


class Principal(msgspec.Struct, frozen=True):
    """Who sends a request. `actor` is the name that events and operators' actions carry; None: anonymous."""

    actor: str | None = None


ANONYMOUS = Principal()


class Wire:
    """One app as it is served over HTTP."""

    def __init__(self, app: App, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.quotas = Quotas(limits)
        self.deadlines = Deadlines(app.world, min(1.0, limits.request_seconds / 4, limits.body_seconds / 4))
        self.streams = Streams(app.world, limits, self.deadlines)

    def caller(self, exchange: Exchange) -> Principal:
        """Who sends this request. There is no authentication yet, so every caller is anonymous."""
        return ANONYMOUS

    def parameters(self, exchange: Exchange, known: Mapping[str, QueryParameter] = NO_PARAMETERS) -> dict[str, Any]:
        """The fields of the query string. InvalidMessage, naming the parameter, where one is wrong or not `known`."""
        return read_parameters(exchange.query_string, known, self.limits)

    async def in_time(self, work: Awaitable[T]) -> T:
        """The result of `work`; Unavailable where it takes longer than a request may."""
        return await self.deadlines.within(self.limits.request_seconds, work, took_too_long)

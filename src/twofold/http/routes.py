"""In charge of the way a request takes through the wire: who asks, which path, what answers, and what if that fails."""

import asyncio
import logging
from collections.abc import Mapping

from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Router
from starlette.routing import Route as Place
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twofold.app import App
from twofold.errors import TwofoldError, UnknownMessage
from twofold.http.command_routes import command_handler
from twofold.http.docs import docs_routes
from twofold.http.event_routes import events_handler
from twofold.http.exchange import ClientGone, Exchange
from twofold.http.health_routes import live_handler, ready_handler, status_handler
from twofold.http.limits import Deadlines, Gate, Limits, took_too_long
from twofold.http.metrics import metrics_handler
from twofold.http.openapi import describe
from twofold.http.problems import UNEXPECTED, HttpRefused
from twofold.http.projection_routes import projection_routes
from twofold.http.query_routes import query_handler
from twofold.http.routing import Route
from twofold.http.security import HEADERS, Trust
from twofold.http.streams import Streams

_OURS = frozenset(
    {"commands", "queries", "events", "projections", "status", "health", "metrics", "openapi.json", "docs"}
)
"""First words of paths that no page may take, so that a misspelt command is told so in the words of the API."""

log = logging.getLogger("twofold.http")


class Api:
    """An app on the wire, as an ASGI application. `drain` makes it say that it is about to stop, and ends streams."""

    def __init__(self, app: App, mounts: Mapping[str, ASGIApp], limits: Limits, trust: Trust) -> None:
        self.app = app
        self.limits = limits
        self._trust = trust
        self.lanes = Gate(limits)
        step = min(1.0, limits.request_seconds / 4, limits.body_seconds / 4)
        self._deadlines = Deadlines(app.world, step)
        self.streams = Streams(app.world, limits, self._deadlines)
        self._routes = self._make_routes()
        self._pages = self._make_pages(mounts)

    def drain(self) -> None:
        """From now on not ready; streams end. Requests under way go on."""
        self.streams.draining.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "There are no web sockets here."})
        else:
            await self._answer(Exchange(scope, receive, send))

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._dispatch(exchange)
        except TwofoldError as error:
            await self._fail(exchange, error)
        except ClientGone:
            return
        except asyncio.CancelledError:
            # Whoever ends this task (a server that waited long enough) leaves a caller behind.
            await self._fail(exchange, took_too_long())
            raise
        except Exception:
            log.exception("%s %s failed", exchange.method, exchange.path)
            await self._fail(exchange, UNEXPECTED)

    async def _dispatch(self, exchange: Exchange) -> None:
        self._trust.check(exchange.scope, exchange.headers)
        if sum(len(name) + len(value) for name, value in exchange.scope["headers"]) > self.limits.header_bytes:
            raise HttpRefused(
                "headers-too-large", f"Headers have {self.limits.header_bytes} bytes at most together.", close=True
            )
        route = self._routes.get(exchange.path)
        if route is None:
            if exchange.path.partition("/")[2].partition("/")[0] in _OURS:
                raise _nothing_there()
            await self._page(exchange)
        elif route.offers(exchange.method):
            await route.handle(exchange)
        elif exchange.method == "OPTIONS":
            await exchange.answer(204, [(b"allow", route.allow.encode())], b"")
        else:
            raise HttpRefused("method-not-allowed", f"Offered here: {route.allow}.", allow=route.allow)

    async def _fail(self, exchange: Exchange, error: TwofoldError) -> None:
        if exchange.started:
            # Too late for a status: what was begun stays unfinished, and the server cuts the connection.
            log.warning("%s %s was cut off: %s", exchange.method, exchange.path, error)
        else:
            await exchange.problem(error)

    # ---------------------------------------------------------------------------------------------------- what there is

    def _make_routes(self) -> dict[str, Route]:
        app, limits, deadlines, streams = self.app, self.limits, self._deadlines, self.streams
        commands, reads = self.lanes.commands, self.lanes.reads
        routes = {
            f"/commands/{name}": Route("POST", command_handler(app, name, limits, commands, deadlines))
            for name in app.wiring.commands
        }
        routes |= {
            f"/queries/{name}": Route("GET", query_handler(app, name, limits, reads, deadlines, streams))
            for name in app.queries.by_name
        }
        routes["/events"] = Route("GET", events_handler(app, limits, reads, deadlines, streams))
        routes["/status"] = Route("GET", status_handler(app, limits, deadlines, streams))
        routes |= projection_routes(app, limits, reads, commands, deadlines)
        routes["/metrics"] = Route("GET", metrics_handler(app, streams.draining, limits, deadlines))
        routes["/health/live"] = Route("GET", live_handler())
        routes["/health/ready"] = Route("GET", ready_handler(app, streams.draining, limits, deadlines))
        return routes | docs_routes(describe(app, limits))

    def _make_pages(self, mounts: Mapping[str, ASGIApp]) -> Router:
        # People leave out the last slash; without a word of ours the pages at "/" would say that nothing is there.
        routes: list[BaseRoute] = [Place(path, RedirectResponse(f"{path}/")) for path in mounts]
        routes += [Mount(path, each) for path, each in mounts.items()]
        if self.app.pages is not None:
            routes.append(Mount("/", self.app.pages(self.app)))
        return Router(routes, redirect_slashes=False, default=_nothing_here)

    # -------------------------------------------------------------------------------------------------------- the pages

    async def _page(self, exchange: Exchange) -> None:
        """Let what is mounted answer, under our limits; where it fails, we answer."""
        page = _Page(exchange, self.limits)
        with self.lanes.reads:
            answering = asyncio.ensure_future(self._pages(exchange.scope, page.receive, page.send))
            answering.add_done_callback(lambda _: page.begun.set())
            try:
                await self._deadlines.within(self.limits.request_seconds, page.begun.wait(), took_too_long)
            except BaseException:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
                raise
        try:
            await answering
        except asyncio.CancelledError:
            answering.cancel()
            raise
        if page.broken:
            raise RuntimeError(f"A page answered {page.broken}, and said nothing else.")

    # ------------------------------------------------------------------------------------------------- under any server

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and stop the app with a server that speaks the lifespan protocol."""
        await receive()
        try:
            await self.app.start()
        except TwofoldError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.drain()
        await self.app.stop()
        await send({"type": "lifespan.shutdown.complete"})


class _Page:
    """One answer of a mounted page on its way out: it gets our headers, and never becomes a 5xx other than 503."""

    def __init__(self, exchange: Exchange, limits: Limits) -> None:
        self._exchange = exchange
        self._left = self._limit = limits.body_bytes
        self.begun = asyncio.Event()
        self.broken = 0

    async def receive(self) -> Message:
        message = await self._exchange.receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise HttpRefused("too-large", f"A body has {self._limit} bytes at most. Send less at once.", close=True)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 500 and message["status"] != 503:
                self.broken = message["status"]
                return
            given: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            own = [(name, value) for name, value in HEADERS if name not in names]
            message = {**message, "headers": given + own}
            self._exchange.started = True
            self.begun.set()
        if not self.broken:
            await self._exchange.send(message)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise _nothing_there()


def _nothing_there() -> UnknownMessage:
    return UnknownMessage("There is nothing at this path, spelt exactly so. What there is, /docs shows.")

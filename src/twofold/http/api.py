"""The ASGI application: finds the route of a request, answers, and turns errors into problem details."""

import asyncio
import logging
from collections.abc import Mapping
from urllib.parse import unquote

import starlette.routing
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twofold.access.rules import INSPECT, METRICS, PUBLIC, READ_LOG, Right
from twofold.errors import TwofoldError, UnknownMessage, WiringError
from twofold.http.access_log import AccessRecord
from twofold.http.budgets import CutOff
from twofold.http.command_routes import command_handler
from twofold.http.cors import Cors
from twofold.http.docs import docs_routes, entry_routes
from twofold.http.event_routes import events_handler
from twofold.http.exchange import ClientGone, Exchange, Route, too_large
from twofold.http.forwarding import Forwarding
from twofold.http.health_routes import answer_live, ready_handler, status_handler
from twofold.http.limits import took_too_long
from twofold.http.log_routes import log_routes
from twofold.http.metrics import metrics_handler
from twofold.http.openapi import describe
from twofold.http.problems import UNEXPECTED, HttpRefused, is_bug
from twofold.http.projection_routes import projection_routes
from twofold.http.query_routes import query_handler
from twofold.http.request_observer import RequestObserver
from twofold.http.role_paths import refuse_page, refuse_path, serves, serves_pages
from twofold.http.security import HEADERS, Trust
from twofold.http.session_routes import session_routes
from twofold.http.wire import Wire

_OURS = frozenset(
    {
        "commands",
        "queries",
        "events",
        "log",
        "projections",
        "status",
        "health",
        "metrics",
        "openapi.json",
        "docs",
        "session",
    }
)
"""First words of paths that no mounted page may use, so that a misspelt command gets a problem, not a page."""

_OF_OUTER = frozenset({"app", "router", "endpoint", "path_params", "app_root_path"})
"""What an application around this one leaves in the scope: pages must not take it for their own."""

ACTOR = "twofold.actor"
"""In the ASGI scope of a mounted page: the `Actor` of the request, or None."""

log = logging.getLogger("twofold.http")


class Api:
    """An app over HTTP, as an ASGI application. After `drain` it is no longer ready, and its streams end."""

    def __init__(
        self, wire: Wire, mounts: Mapping[str, ASGIApp], trust: Trust, root_path: str, *, access_log: bool
    ) -> None:
        self.wire = wire
        self._access_log = access_log
        self._trust = trust
        self._cors = Cors(trust)
        self._forwarding = Forwarding(trust.proxies, root_path)
        _refuse_ambiguous(root_path)
        self._routes = _routes(wire, mounts)
        self._pages = self._make_pages(mounts)
        self.observer = RequestObserver(self._routes, wire.app, wire.streams, root_path)

    def drain(self) -> None:
        """Not ready from now on; streams end. Requests in progress go on."""
        self.wire.streams.draining.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "Web sockets are not supported."})
        else:
            request = self.observer.begin(scope, send)
            exchange = Exchange(scope, receive, request.send, self.wire.budgets)
            try:
                await self._answer(exchange)
            finally:
                request.end(exchange.path)

    async def _answer(self, exchange: Exchange) -> None:
        record = AccessRecord(exchange, self.wire.app.world) if self._access_log else None
        try:
            await self._dispatch(exchange)
        except TwofoldError as error:
            if is_bug(error):
                log.exception("%s %s failed", exchange.method, exchange.path)
            await self._fail(exchange, error)
        except (ClientGone, CutOff):
            return
        except asyncio.CancelledError:
            # A server that has waited long enough cancels this task while the caller still waits.
            await self._fail(exchange, took_too_long())
            raise
        except Exception:
            log.exception("%s %s failed", exchange.method, exchange.path)
            await self._fail(exchange, UNEXPECTED)
        finally:
            exchange.close()
            if record is not None:
                record.finish()

    async def _dispatch(self, exchange: Exchange) -> None:
        scope = self._forwarding.applied(exchange.scope)
        if scope is not exchange.scope:
            exchange.place(scope)
        self._cors.apply(exchange)
        self._trust.check(exchange.scope, exchange.headers)
        limit = self.wire.limits.header_bytes
        if sum(len(name) + len(value) for name, value in exchange.scope["headers"]) > limit:
            raise HttpRefused("headers-too-large", f"The headers are larger than {limit} bytes together.", close=True)
        route = self._routes.get(exchange.path)
        if route is None:
            # Pages are found by the decoded path.
            refuse_path(self.wire.app.roles, unquote(exchange.path))
            if _first_word(exchange.path) in _OURS:
                raise _not_found()
            await self.wire.admit_anybody(exchange)
            exchange.scope[ACTOR] = exchange.actor
            await self._answer_page(exchange)
        elif route.offers(exchange.method):
            await self.wire.admit(exchange, route.right)
            await route.handle(exchange)
        elif exchange.method == "OPTIONS":
            more = self._cors.preflight(exchange, route.allow)
            await exchange.answer(204, [(b"allow", route.allow.encode()), *more], b"")
        else:
            raise HttpRefused("method-not-allowed", f"Allowed methods: {route.allow}.", allow=route.allow)

    async def _fail(self, exchange: Exchange, error: TwofoldError) -> None:
        if exchange.started:
            # Too late for a status: the answer stays unfinished, and the server closes the connection.
            log.warning("%s %s was interrupted: %s", exchange.method, exchange.path, error)
        else:
            await exchange.problem(error)

    # ------------------------------------------------------------------------------------------------ mounted pages

    def _make_pages(self, mounts: Mapping[str, ASGIApp]) -> starlette.routing.Router:
        # People leave out the last slash. Without a redirect the pages at "/" would answer "not found".
        routes: list[starlette.routing.BaseRoute] = [starlette.routing.Route(path, _add_slash) for path in mounts]
        routes += [starlette.routing.Mount(path, page) for path, page in mounts.items()]
        app = self.wire.app
        if app.pages is not None and serves_pages(app.roles):
            routes.append(starlette.routing.Mount("/", app.pages(app)))
        return starlette.routing.Router(routes, redirect_slashes=False, default=self._no_page)

    async def _no_page(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.wire.app.pages is not None:
            refuse_page(self.wire.app.roles)
        raise _not_found()

    async def _answer_page(self, exchange: Exchange) -> None:
        """Let a mounted page answer, within our limits; if it fails, answer with a problem."""
        response = MountedResponse(exchange, self.wire.limits.body_bytes)
        with self.wire.quotas.reads:
            scope = {key: value for key, value in exchange.scope.items() if key not in _OF_OUTER}
            answering = asyncio.ensure_future(self._pages(scope, response.receive, response.send))
            answering.add_done_callback(lambda _: response.started.set())
            try:
                await self.wire.in_time(response.started.wait())
            except BaseException:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
                raise
        try:
            await answering
        except asyncio.CancelledError:
            answering.cancel()
            raise
        if response.error_status:
            raise RuntimeError(f"A page answered with status {response.error_status} and raised no error.")

    # ------------------------------------------------------------------------------------------------- any server

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        """Start and stop the app with a server that speaks the lifespan protocol."""
        app = self.wire.app
        await receive()
        try:
            await app.start()
        except TwofoldError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        self.wire.streams.stop_signals.watch()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.drain()
        await app.stop()
        await send({"type": "lifespan.shutdown.complete"})


class MountedResponse:
    """The response of a mounted page: it gets our headers, and a 5xx other than 503 becomes a problem."""

    def __init__(self, exchange: Exchange, limit: int) -> None:
        self._exchange = exchange
        self._left = self._limit = limit
        self.started = asyncio.Event()
        self.error_status = 0

    async def receive(self) -> Message:
        message = await self._exchange.receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise too_large(self._limit)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] >= 500 and message["status"] != 503:
                self.error_status = message["status"]
                return
            given: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            own = [(name, value) for name, value in HEADERS if name not in names]
            message = {**message, "headers": given + own}
            self._exchange.started = True
            self.started.set()
        if not self.error_status:
            await self._exchange.send(message)


def _routes(wire: Wire, mounts: Mapping[str, ASGIApp]) -> dict[str, Route]:
    app, roles = wire.app, wire.app.roles
    document = describe(app, wire.limits)
    has_pages = "/" in mounts or (app.pages is not None and serves_pages(roles))
    routes = {
        **({} if has_pages else entry_routes(document, mounts)),
        **{
            f"/commands/{name}": Route("POST", Right("command", name), command_handler(wire, name))
            for name in app.public_commands
        },
        **{
            f"/queries/{name}": Route("GET", Right("query", name), query_handler(wire, name))
            for name in app.public_queries
        },
        **projection_routes(wire),
        **log_routes(wire),
        **session_routes(wire),
        "/events": Route("GET", READ_LOG, events_handler(wire)),
        "/status": Route("GET", INSPECT, status_handler(wire)),
        "/metrics": Route("GET", METRICS, metrics_handler(wire)),
        "/health/live": Route("GET", PUBLIC, answer_live),
        "/health/ready": Route("GET", PUBLIC, ready_handler(wire)),
        **docs_routes(document),
    }
    return {path: route for path, route in routes.items() if serves(roles, path)}


def _first_word(path: str) -> str:
    return path.partition("/")[2].partition("/")[0]


def _refuse_ambiguous(root_path: str) -> None:
    """WiringError where nobody could tell whether a proxy has stripped the root path."""
    if _first_word(root_path) in _OURS:
        raise WiringError(f"The root path {root_path} begins like a path of the API. Choose another one.")


async def _add_slash(request: Request) -> RedirectResponse:
    return RedirectResponse(f"{request.scope['path']}/")


def _not_found() -> UnknownMessage:
    return UnknownMessage("Not found. `/docs` lists the paths of the API.")

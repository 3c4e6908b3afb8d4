"""Observes requests: counts them by route and status, measures how long they take, and traces them."""

from collections.abc import Iterable

from starlette.types import Message, Scope, Send

from twofold.app import App
from twofold.http.exchange import path_of, without_prefix
from twofold.http.streams import Streams
from twofold.telemetry.families import one
from twofold.telemetry.instruments import OTHER, Counter, Family, Histogram
from twofold.telemetry.spans import ActiveSpan

PAGES = "pages"
"""The route of all paths of mounted pages."""
STATUSES = (
    200,
    204,
    301,
    302,
    303,
    304,
    307,
    400,
    401,
    403,
    404,
    405,
    408,
    409,
    410,
    413,
    415,
    421,
    422,
    429,
    431,
    500,
    503,
)
"""Every status that requests are counted by; others count as `other`."""

_UNTRACED = frozenset({"/health/live", "/health/ready", "/metrics", "/status"})
"""What is asked every few seconds is not traced: these spans would hide the others."""
_STREAM = b"text/event-stream"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STATUS_TEXTS = {status: str(status) for status in STATUSES}


class RequestObserver:
    """Observes the requests of an app. `routes` are the paths that it serves itself: each is one value of a label.

    Its metrics are part of those of the app.
    """

    def __init__(self, routes: Iterable[str], app: App, streams: Streams, root_path: str) -> None:
        self.telemetry = app.telemetry
        self.world = app.world
        self.routes = frozenset(routes)
        self._root_path = root_path
        self.requests = Counter(
            "twofold_http_requests_total",
            "Requests answered by this process.",
            {"route": [*sorted(self.routes), PAGES, OTHER], "status": [*_STATUS_TEXTS.values(), OTHER]},
            sparse=True,
        )
        self.seconds = Histogram("twofold_http_request_seconds", "Seconds to answer a request, streams left out.")
        self._streams = streams
        app.telemetry.sources["http"] = self.families

    def families(self) -> list[Family]:
        """The metrics of requests, and of the streams that are open."""
        streams = one("http_streams_open", "gauge", "Streams that are open.", self._streams.open)
        return [self.requests.family(), self.seconds.family(), streams]

    def route_of(self, path: str) -> str:
        """The route of a path, as it was sent."""
        path = without_prefix(path, self._root_path)
        return path if path in self.routes else OTHER

    def begin(self, scope: Scope, send: Send) -> "ObservedRequest":
        """Observe a request. What it answers is sent by `send` of the result, and `end` has to be called."""
        return ObservedRequest(self, scope, send)


class ObservedRequest:
    """One request that is observed. `status` is 0 until its answer begins."""

    __slots__ = ("_began", "_method", "_observer", "_send", "_span", "_stream", "route", "status")

    def __init__(self, observer: RequestObserver, scope: Scope, send: Send) -> None:
        self.route = observer.route_of(path_of(scope))
        self.status = 0
        self._observer = observer
        self._send = send
        self._stream = False
        self._method: str = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        self._began = observer.world.monotonic()
        self._span: ActiveSpan | None = None
        tracing = observer.telemetry.tracing
        if tracing is not None and self.route not in _UNTRACED and not _asks_for_stream(scope):
            self._span = tracing.request(self._method, self.route, scope["headers"])
            self._span.__enter__()

    async def send(self, message: Message) -> None:
        """Send a part of the answer. The trace is named in the headers, if it is sampled."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers: list[tuple[bytes, bytes]] = message.get("headers", [])
            self._stream = any(name == b"content-type" and value.startswith(_STREAM) for name, value in headers)
            traceparent = None if self._span is None else self._span.traceparent
            if traceparent is not None:
                message = {**message, "headers": [*headers, (b"traceresponse", traceparent.encode())]}
        await self._send(message)

    def end(self, path: str) -> None:
        """Note that the request is answered, or has ended without an answer. To be called in the task that began it.

        `path` is the one that was answered: a proxy may have named a prefix.
        """
        observer = self._observer
        if self.route == OTHER and (route := observer.route_of(path)) != OTHER:
            self.route = route
            if self._span is not None:
                self._span.rename(f"{self._method} {route}", {"http.route": route})
        if self.route == OTHER and 0 < self.status < 400:
            self.route = PAGES
        observer.requests.add(self.route, _STATUS_TEXTS.get(self.status, OTHER))
        if not self._stream:
            observer.seconds.observe(observer.world.monotonic() - self._began)
        if self._span is not None:
            self._span.add({"http.response.status_code": self.status})
            self._span.__exit__(None, HttpError(self.status) if self.status >= 500 else None, None)


class HttpError(Exception):
    """The error of the span of a request that was answered with a status of 500 or more."""


def _asks_for_stream(scope: Scope) -> bool:
    """Whether the answer may be a stream, which has no end that a span could wait for."""
    return any(name == b"accept" and _STREAM in value for name, value in scope["headers"])

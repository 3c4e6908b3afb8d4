"""One HTTP request and its answer, close to ASGI because every command passes here, and the routes to handlers."""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import Message, Receive, Scope, Send

from twofold.errors import InvalidMessage, TwofoldError
from twofold.http.problems import CONTENT_TYPE, HttpRefused, headers_of, problem_of
from twofold.http.security import HEADERS

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", CONTENT_TYPE)
_FRESH = (b"cache-control", b"no-store")
_encode = msgspec.json.Encoder().encode


class ClientGone(Exception):
    """The client left before it had sent all of its request: no answer is needed."""


class Exchange:
    """One HTTP request, and the one answer to it."""

    __slots__ = ("headers", "method", "path", "receive", "scope", "send", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.path = _path_of(scope)
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.started = False

    @property
    def client(self) -> str:
        """The address the request came from, as far as the server knows it."""
        client = self.scope.get("client")
        return str(client[0]) if client else "unknown"

    @property
    def query_string(self) -> bytes:
        """The part after the question mark, as it was sent."""
        return self.scope.get("query_string") or b""

    def text(self, header: bytes) -> str | None:
        """A header as text; InvalidMessage where it is not plain ASCII."""
        value = self.headers.get(header)
        if value is None:
            return None
        if not value.isascii():
            name = header.decode().title()
            raise InvalidMessage(f"The header {name} has characters other than ASCII. Send ASCII only.", field=name)
        return value.decode("ascii")

    @property
    def wants_stream(self) -> bool:
        return b"text/event-stream" in self.headers.get(b"accept", b"")

    async def body(self, limit: int) -> bytes:
        """The whole body. Refused as soon as more than `limit` bytes are announced or have come."""
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise too_large(limit)
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > limit:
                raise too_large(limit)
            return body
        return await self._rest(message, limit)

    async def _rest(self, message: Message, limit: int) -> bytes:
        parts = bytearray()
        while True:
            if message["type"] != "http.request":
                raise ClientGone
            parts += message.get("body", b"")
            if len(parts) > limit:
                raise too_large(limit)
            if not message.get("more_body", False):
                return bytes(parts)
            message = await self.receive()

    async def gone(self) -> None:
        """Returns once the client has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def json(self, body: bytes, more: Headers | None = None, status: int = 200) -> None:
        """Answer with JSON that is not cached."""
        await self.answer(status, [_JSON, _FRESH, *(more or ())], body)

    async def problem(self, error: TwofoldError, more: msgspec.Struct | None = None) -> None:
        """Answer with the problem details of an error, and the fields of `more` beside them."""
        problem = problem_of(error)
        body = problem if more is None else msgspec.structs.asdict(more) | msgspec.to_builtins(problem)
        await self.answer(problem.status, [_PROBLEM, _FRESH, *headers_of(error, problem.status)], _encode(body))

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a whole body (HEAD: with its length only)."""
        headers += HEADERS
        if status != 204:
            headers.append((b"content-length", b"%d" % len(body)))
        self.started = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def open(self, headers: Headers) -> None:
        self.started = True
        await self.send({"type": "http.response.start", "status": 200, "headers": headers + HEADERS})

    async def write(self, piece: bytes) -> None:
        await self.send({"type": "http.response.body", "body": piece, "more_body": True})

    async def finish(self) -> None:
        await self.send({"type": "http.response.body", "body": b""})


Handler = Callable[[Exchange], Awaitable[None]]


class Route:
    """The method that one path offers, and those that come with it."""

    __slots__ = ("allow", "handle", "method")

    def __init__(self, method: str, handle: Handler) -> None:
        self.method = method
        self.handle = handle
        self.allow = "GET, HEAD, OPTIONS" if method == "GET" else f"{method}, OPTIONS"

    def offers(self, method: str) -> bool:
        """Whether `handle` answers a method; HEAD is GET without the body."""
        return method == self.method or (method == "HEAD" and self.method == "GET")


def _path_of(scope: Scope) -> str:
    """The path as it was sent: an encoded letter makes another path, so that each path has one spelling."""
    raw: bytes | None = scope.get("raw_path")
    path = scope["path"] if raw is None else raw.partition(b"?")[0].decode("latin-1")
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path


def too_large(limit: int) -> HttpRefused:
    return HttpRefused("too-large", f"The body is larger than {limit} bytes. Send less at once.", close=True)

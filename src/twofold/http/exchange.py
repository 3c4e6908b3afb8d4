"""In charge of one request and its answer, as near to ASGI as may be: this is the road every command takes."""

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
    """The client left before it had sent all of its request: there is nobody to answer."""


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
        """What stands after the question mark, as it came."""
        return self.scope.get("query_string") or b""

    def text(self, header: bytes) -> str | None:
        """A header as text; InvalidMessage where it is not plain ASCII."""
        value = self.headers.get(header)
        if value is None:
            return None
        if not value.isascii():
            name = header.decode().title()
            raise InvalidMessage(f"The header {name} has other characters than ASCII. Send plain ones.", field=name)
        return value.decode("ascii")

    @property
    def wants_stream(self) -> bool:
        """Whether the caller asks for server-sent events."""
        return b"text/event-stream" in self.headers.get(b"accept", b"")

    async def body(self, limit: int) -> bytes:
        """The whole body. Refused as soon as more than `limit` bytes are announced or have come."""
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise _too_large(limit)
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > limit:
                raise _too_large(limit)
            return body
        return await self._rest(message, limit)

    async def _rest(self, message: Message, limit: int) -> bytes:
        parts = bytearray()
        while True:
            if message["type"] != "http.request":
                raise ClientGone
            parts += message.get("body", b"")
            if len(parts) > limit:
                raise _too_large(limit)
            if not message.get("more_body", False):
                return bytes(parts)
            message = await self.receive()

    async def gone(self) -> None:
        """Returns once the client has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def json(self, body: bytes, more: Headers | None = None, status: int = 200) -> None:
        """Answer with JSON that nobody may keep."""
        await self.answer(status, [_JSON, _FRESH, *(more or ())], body)

    async def problem(self, error: TwofoldError, reasons: list[str] | None = None) -> None:
        """Answer with the problem an error stands for."""
        problem = problem_of(error, reasons)
        await self.answer(problem.status, [_PROBLEM, _FRESH, *headers_of(error, problem.status)], _encode(problem))

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a whole body (whose length alone is told to HEAD)."""
        headers += HEADERS
        if status != 204:
            headers.append((b"content-length", b"%d" % len(body)))
        self.started = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def open(self, headers: Headers) -> None:
        """Begin an answer that comes piece by piece."""
        self.started = True
        await self.send({"type": "http.response.start", "status": 200, "headers": headers + HEADERS})

    async def write(self, piece: bytes) -> None:
        """Send one more piece."""
        await self.send({"type": "http.response.body", "body": piece, "more_body": True})

    async def finish(self) -> None:
        """End an answer that came piece by piece."""
        await self.send({"type": "http.response.body", "body": b""})


def _path_of(scope: Scope) -> str:
    """The path as it was sent: an encoded letter is another path, so that no two spellings mean one thing."""
    raw: bytes | None = scope.get("raw_path")
    path = scope["path"] if raw is None else raw.partition(b"?")[0].decode("latin-1")
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root else path


def _too_large(limit: int) -> HttpRefused:
    return HttpRefused("too-large", f"A body has {limit} bytes at most. Send less at once.", close=True)

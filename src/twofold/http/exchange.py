"""One HTTP request and its answer, close to ASGI because every command passes here, and the routes to handlers."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from urllib.parse import quote

import msgspec
from starlette.types import Message, Receive, Scope, Send

from twofold.access.rules import Right
from twofold.domain.actor import Actor
from twofold.errors import InvalidMessage, TwofoldError, Unavailable
from twofold.http.budgets import SMALL, Budgets, Holding
from twofold.http.problems import CONTENT_TYPE, HttpRefused, headers_of, problem_of
from twofold.http.security import HEADERS

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", CONTENT_TYPE)
_FRESH = (b"cache-control", b"no-store")
_encode = msgspec.json.Encoder().encode
PIECE = 32_768
"""Bytes of an answer that are written at once."""


class ClientGone(Exception):
    """The client left before it had sent all of its request: no answer is needed."""


class Exchange:
    """One HTTP request, and the one answer to it. `actor` is who sent it; None where nobody is known. `readmit` checks
    again whether they may; it is None where that cannot change."""

    __slots__ = (
        "_body",
        "actor",
        "budgets",
        "headers",
        "method",
        "path",
        "readmit",
        "receive",
        "scope",
        "send",
        "started",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, budgets: Budgets) -> None:
        self.budgets = budgets
        self._body: Holding | None = None
        self.actor: Actor | None = None
        self.readmit: Callable[[], Awaitable[None]] | None = None
        self.receive = receive
        self.send = send
        self.started = False
        self.place(scope)

    def place(self, scope: Scope) -> None:
        """Take this scope for the one of the request."""
        self.scope = scope
        self.method: str = scope["method"]
        self.path = path_of(scope)
        self.headers: dict[bytes, bytes] = dict(scope["headers"])

    @property
    def root(self) -> str:
        """The path under which this API is public: empty, or `/shop`."""
        root: str = self.scope.get("root_path", "")
        return root

    @property
    def client(self) -> str:
        """The address the request came from, as far as the server and its proxies tell it."""
        client = self.scope.get("client")
        return str(client[0]) if client else "unknown"

    @property
    def caller(self) -> str:
        """Whom limits count: the actor where one is known, else the address."""
        return self.client if self.actor is None else f"actor {self.actor.name}"

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
        """The whole body. Refused as soon as more than `limit` bytes are announced or have come.

        HttpRefused where there is no memory for it, or where it comes so slowly that others need the memory first.
        What it holds of the budget is released by `close`.
        """
        announced = self.headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced[:20]) > limit:
            raise too_large(limit)
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            body: bytes = message.get("body", b"")
            if len(body) > limit:
                raise too_large(limit)
            if len(body) <= SMALL:
                return body
        with self.counting() as body_holding:
            return await self._rest(message, limit, body_holding)

    async def _rest(self, message: Message, limit: int, holding: Holding) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] != "http.request":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large(limit)
            holding.resize(size)
            if not message.get("more_body", False):
                return b"".join(parts)
            message = await self.receive()

    @contextmanager
    def counting(self) -> Generator[Holding]:
        """Count the body against its budget. Within this context the request may be refused for others."""
        task = asyncio.current_task()
        self._body = holding = self.budgets.bodies.begin()
        holding.cancel = None if task is None else task.cancel
        try:
            yield holding
        except Unavailable as error:
            raise HttpRefused("unavailable", str(error), close=True) from error
        except asyncio.CancelledError:
            if not holding.was_cut or task is None or task.uncancel() > 0:
                raise
            raise _slower_than_others() from None
        finally:
            holding.cancel = None

    def close(self) -> None:
        """Release what the body holds of its budget."""
        if self._body is not None:
            self._body.release()

    async def gone(self) -> None:
        """Returns once the client has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def json(self, body: bytes, more: Headers | None = None, status: int = 200, *, counted: bool = True) -> None:
        """Answer with JSON that is not cached."""
        await self.answer(status, [_JSON, _FRESH, *(more or ())], body, counted=counted)

    async def problem(self, error: TwofoldError, more: msgspec.Struct | None = None) -> None:
        """Answer with the problem details of an error, and the fields of `more` beside them."""
        problem = problem_of(error, self.root)
        body = problem if more is None else msgspec.structs.asdict(more) | msgspec.to_builtins(problem)
        await self.answer(problem.status, [_PROBLEM, _FRESH, *headers_of(error, problem.status)], _encode(body))

    async def answer(self, status: int, headers: Headers, body: bytes, *, counted: bool = True) -> None:
        """Answer with a whole body (HEAD: with its length only).

        A large one is sent in pieces, and counted against its budget until the client has it. Unavailable where there
        is no room; CutOff where the client reads slowly and others need the memory.
        """
        headers += HEADERS
        if status != 204:
            headers.append((b"content-length", b"%d" % len(body)))
        if len(body) <= SMALL or self.method == "HEAD":
            await self._start(status, headers)
            await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})
            return
        holding = self.budgets.answers.begin()
        if counted:
            holding.resize(len(body))
        with holding.cut_off_here():
            await self._start(status, headers)
            for piece in pieces_of(body):
                await self.write(piece)
            await self.finish()

    async def open_json(self, more: Headers) -> None:
        """Begin to answer with JSON that is not cached. Its pieces follow."""
        await self.open([_JSON, _FRESH, *more])

    async def open(self, headers: Headers) -> None:
        await self._start(200, headers + HEADERS)

    async def _start(self, status: int, headers: Headers) -> None:
        self.started = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body: of at most a few kB, since the server keeps it until the client reads."""
        await self.send({"type": "http.response.body", "body": piece, "more_body": True})

    async def drain(self) -> None:
        """Return once the client has read most of what was written."""
        # Servers wait before they take a piece, not after.
        await self.write(b"")

    async def finish(self) -> None:
        await self.send({"type": "http.response.body", "body": b""})


Handler = Callable[[Exchange], Awaitable[None]]


class Route:
    """The method that one path offers, those that come with it, and the right that a caller needs."""

    __slots__ = ("allow", "handle", "method", "right")

    def __init__(self, method: str, right: Right, handle: Handler) -> None:
        self.method = method
        self.right = right
        self.handle = handle
        self.allow = "GET, HEAD, OPTIONS" if method == "GET" else f"{method}, OPTIONS"

    def offers(self, method: str) -> bool:
        """Whether `handle` answers a method; HEAD is GET without the body."""
        return method == self.method or (method == "HEAD" and self.method == "GET")


def path_of(scope: Scope) -> str:
    """The path as it was sent: an encoded letter makes another path, so that each path has one spelling."""
    raw: bytes | None = scope.get("raw_path")
    root: str = scope.get("root_path", "")
    if raw is None:
        return without_prefix(scope["path"], root)
    return without_prefix(raw.partition(b"?")[0].decode("latin-1"), quote(root) if root else root)


def without_prefix(path: str, prefix: str) -> str:
    """A path without a prefix, where it begins with it: `/shop` is a prefix of `/shop/docs`, not of `/shopping`."""
    if prefix and path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
        return path[len(prefix) :]
    return path


def pieces_of(body: bytes) -> Iterator[bytes]:
    """A body in pieces for `Exchange.write`."""
    return (body[start : start + PIECE] for start in range(0, len(body), PIECE))


def _slower_than_others() -> HttpRefused:
    text = "The body arrived slowly while other requests needed its memory. Send it again."
    return HttpRefused("too-slow", text, close=True)


def too_large(limit: int) -> HttpRefused:
    return HttpRefused("too-large", f"The body is larger than {limit} bytes. Send less at once.", close=True)

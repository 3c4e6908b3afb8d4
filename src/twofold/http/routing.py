"""In charge of what a route is: a path that is exactly so, and the methods it offers."""

from collections.abc import Awaitable, Callable

from twofold.http.exchange import Exchange

Handler = Callable[[Exchange], Awaitable[None]]


class Route:
    """What one path offers: one method, and those that come with it."""

    __slots__ = ("allow", "handle", "method")

    def __init__(self, method: str, handle: Handler) -> None:
        self.method = method
        self.handle = handle
        self.allow = "GET, HEAD, OPTIONS" if method == "GET" else f"{method}, OPTIONS"

    def offers(self, method: str) -> bool:
        """Whether a method is answered by `handle`; HEAD is GET without the body."""
        return method == self.method or (method == "HEAD" and self.method == "GET")

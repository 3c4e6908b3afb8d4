"""What keeps the pages safe: nothing inline runs, nobody frames them, and no other site may send their forms."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class Safety:
    """Adds the headers to every answer, and refuses with 403 what a page of another site sends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["method"] not in ("GET", "HEAD") and not same_origin(Headers(scope=scope)):
            refusal = PlainTextResponse("This form was sent from another site. Open it here and send it again.", 403)
            await refusal(scope, receive, send_safely)
            return
        await self._app(scope, receive, send_safely)


def same_origin(headers: Headers) -> bool:
    """Whether a request comes from a page of this very host, or from no page at all."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")

"""The pages for errors."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from shop.pages.rendering import Renderer
from twofold import CommandIdReused, Conflict, Refused, Rejected, Unavailable

Handler = Callable[[Request, Any], Awaitable[Response]]


def problem_pages(renderer: Renderer) -> Mapping[Any, Handler]:
    """A page for each kind of error. The only 5xx status is 503, with `Retry-After`."""

    async def rejected(request: Request, error: Rejected) -> Response:
        return renderer.page("problem.html", 422, title="That is not possible", text=error.reason or error.code)

    async def refused(request: Request, error: Refused) -> Response:
        return renderer.page("problem.html", 400, title="The input is not valid", text=str(error))

    async def reused(request: Request, error: CommandIdReused) -> Response:
        text = "This form was sent before with other values. Please open it again."
        return renderer.page("problem.html", 422, title="Sent already", text=text)

    async def conflict(request: Request, error: Conflict) -> Response:
        return renderer.page("problem.html", 409, title="Another request was faster", text="Please send it again.")

    async def unavailable(request: Request, error: Unavailable) -> Response:
        text = "The page is not available yet. Please reload it in a moment."
        page = renderer.page("problem.html", 503, title="One moment", text=text)
        page.headers["Retry-After"] = str(max(1, round(error.retry_after)))
        return page

    async def http(request: Request, error: HTTPException) -> Response:
        page = renderer.page("problem.html", error.status_code, title="Nothing here", text=error.detail)
        page.headers.update(error.headers or {})
        return page

    return {
        Rejected: rejected,
        CommandIdReused: reused,
        Refused: refused,
        Conflict: conflict,
        Unavailable: unavailable,
        HTTPException: http,
    }

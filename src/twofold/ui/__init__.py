"""The console: one picture of the whole system with live numbers, from `/status`, `/events` and `/queries` only."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

_HERE = Path(__file__).parent


def console(*, home: str | None = None, home_name: str = "Place an order") -> Starlette:
    """The console as an ASGI app, to mount beside the HTTP API of an app (at `/console`).

    The HTTP API adds the headers that forbid inline code. `home` is the path of the app's own pages within that API, if
    it has any; a link named `home_name` leads there.
    """
    templates = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template("console.html")

    async def show(request: Request) -> Response:
        base = request.scope.get("root_path", "").rstrip("/")
        # The root path of the application that this one is mounted in, which is the HTTP API.
        root = request.scope.get("app_root_path", "").rstrip("/")
        text = page.render(base=base, root=root, home=home and root + home, home_name=home_name)
        return HTMLResponse(text, headers={"Cache-Control": "no-cache"})

    return Starlette(routes=[Route("/", show), Mount("/static", StaticFiles(directory=_HERE / "static"))])

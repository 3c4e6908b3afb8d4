"""The bank behind a proxy: its pages say what they see of a request."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from tests.http.bank_server import served_bank
from twofold import ALL, ANYONE, Allow, App


def pages(app: App) -> Starlette:
    async def show(request: Request) -> JSONResponse:
        client = request.client.host if request.client else ""
        return JSONResponse({"client": client, "link": str(request.url_for("seen"))})

    async def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    return Starlette(routes=[Route("/seen", show, name="seen"), Route("/read", read, methods=["POST"])])


OPEN = [Allow(ANYONE, commands=ALL, queries=ALL, operate=ALL, inspect=True, read_log=True)]
"""Without rules it would refuse what a proxy passes on."""

app = App(served_bank(), write_store="memory:", read_store="memory:", pages=pages, access=OPEN)

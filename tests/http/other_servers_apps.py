"""The bank for other ASGI servers: by itself, and mounted in an application that gets the lifespan events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Mount

from tests.http.bank_server import open_bank
from twofold.http import asgi

alone = asgi(open_bank())

_inner = asgi(open_bank())


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    async with _inner.wire.app:
        yield


mounted = Starlette(routes=[Mount("/", app=_inner)], lifespan=_lifespan)

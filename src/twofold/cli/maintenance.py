"""In charge of opening the stores of an app for one task, as a visitor beside whatever else runs on them."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

from twofold.app import App
from twofold.errors import WiringError


@asynccontextmanager
async def visiting(app: App, names: Iterable[str]) -> AsyncGenerator[App]:
    """`app`, which follows for these projections and policies as far as no running node does, until the context ends.

    WiringError, with the cure, where another process holds a SQLite file: it has one writer.
    """
    try:
        await app.start(only=names)
    except WiringError as error:
        if isinstance(error.__cause__, BlockingIOError):
            raise WiringError(
                f"{error} Or ask that process, if it is a `twofold serve`: add --url with its address, "
                "http://127.0.0.1:8000."
            ) from error
        raise
    try:
        yield app
    finally:
        await app.stop()

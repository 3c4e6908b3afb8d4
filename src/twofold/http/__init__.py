"""An app over HTTP: commands, queries, events, health, problems and their description, on any ASGI server."""

from collections.abc import Mapping

from starlette.types import ASGIApp

from twofold.app import App
from twofold.http.api import Api
from twofold.http.limits import Limits
from twofold.http.security import Trust
from twofold.http.wire import Wire

__all__ = ["Api", "Limits", "Trust", "asgi"]


def asgi(
    app: App,
    mounts: Mapping[str, ASGIApp] | None = None,
    *,
    limits: Limits | None = None,
    trust: Trust | None = None,
    root_path: str = "",
    access_log: bool = False,
) -> Api:
    """`app` as an ASGI application: its HTTP API, its pages at `/`, and `mounts` at other paths.

    `root_path` is the path under which a proxy publishes it, `/shop`. With `access_log` each request is logged, by the
    logger `twofold.access`. WiringError where a message type cannot be sent over HTTP, or an argument is not of its
    form.
    """
    return Api(Wire(app, limits or Limits()), mounts or {}, trust or Trust(), root_path, access_log=access_log)

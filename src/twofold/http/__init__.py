"""The wire: an app over HTTP. Commands, queries, events, health, problems and their description; on any ASGI server."""

from collections.abc import Mapping

from starlette.types import ASGIApp

from twofold.app import App
from twofold.http.limits import Limits
from twofold.http.routes import Api
from twofold.http.security import Trust

__all__ = ["Api", "Limits", "Trust", "asgi"]


def asgi(
    app: App, mounts: Mapping[str, ASGIApp] | None = None, *, limits: Limits | None = None, trust: Trust | None = None
) -> Api:
    """`app` as an ASGI application: its HTTP API, its pages at `/`, and whatever `mounts` puts at other paths.

    WiringError where a message type cannot be told over HTTP.
    """
    return Api(app, mounts or {}, limits or Limits(), trust or Trust())

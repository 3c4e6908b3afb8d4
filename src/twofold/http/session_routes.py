"""`/session`: the login of a browser, whose streams cannot send `Authorization`. A cookie has the credentials.

Scripts cannot read the cookie, other sites cannot have it sent, and it ends after some hours. Nothing is stored here: a
key that is revoked, or a token that expires, ends the session at once, on all processes.
"""

from collections.abc import Mapping

import msgspec

from twofold.access.rules import PUBLIC
from twofold.errors import InvalidMessage, NotAuthenticated
from twofold.http.exchange import Exchange, Route
from twofold.http.session_cookie import fits, login_cookie, logout_cookie
from twofold.http.wire import Wire

_encode = msgspec.json.Encoder().encode


class Session(msgspec.Struct, frozen=True):
    """Who is logged in, and with which roles; null where nobody is. `login` says whether there is a login at all."""

    actor: str | None
    roles: list[str]
    login: bool


def session_routes(wire: Wire) -> Mapping[str, Route]:
    """All routes under `/session`."""

    async def show(exchange: Exchange) -> None:
        wire.parameters(exchange)
        await wire.admit_anybody(exchange)
        await exchange.json(_encode(_session(wire, exchange)))

    async def begin(exchange: Exchange) -> None:
        wire.parameters(exchange)
        kind, _, token = (exchange.text(b"authorization") or "").partition(" ")
        if kind.lower() != "bearer":
            raise NotAuthenticated("Send the API key or token: `Authorization: Bearer …`.")
        await wire.identify(exchange)
        if exchange.actor is None:
            raise NotAuthenticated("No authenticator of this app knows these credentials.")
        if not fits(token):
            raise InvalidMessage("The token is too long for a cookie. Log in with an API key.", field="Authorization")
        await exchange.json(_encode(_session(wire, exchange)), [login_cookie(exchange, token)])

    async def end(exchange: Exchange) -> None:
        wire.parameters(exchange)
        await exchange.json(_encode(_session(wire, exchange)), [logout_cookie(exchange)])

    return {
        "/session": Route("GET", PUBLIC, show),
        "/session/begin": Route("POST", PUBLIC, begin),
        "/session/end": Route("POST", PUBLIC, end),
    }


def _session(wire: Wire, exchange: Exchange) -> Session:
    actor = exchange.actor
    return Session(
        None if actor is None else actor.name, sorted(actor.roles if actor else ()), bool(wire.app.authentication)
    )

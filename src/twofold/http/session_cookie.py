"""The cookie of a session: which name it has, what it may hold, and how long it lives."""

import re

from twofold.http.exchange import Exchange

_COOKIE = "twofold_session"
_SECURE_COOKIE = f"__Host-{_COOKIE}"
"""Browsers take this name only over TLS and from this host: no other host of the domain can set it."""

_SECONDS = 43_200
_LONGEST = 3_800
"""Browsers keep about 4,096 bytes of a cookie, with its name and attributes."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")


def token_in_cookie(exchange: Exchange) -> str | None:
    """The credentials in the cookie of a session; None where there is none."""
    name = _name(exchange)
    for pair in exchange.headers.get(b"cookie", b"").decode("latin-1").split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name and value:
            return value
    return None


def fits(token: str) -> bool:
    """Whether a cookie can hold a token."""
    return len(token) <= _LONGEST and _TOKEN.fullmatch(token) is not None


def login_cookie(exchange: Exchange, token: str) -> tuple[bytes, bytes]:
    """The header that begins a session."""
    return _header(exchange, token, _SECONDS)


def logout_cookie(exchange: Exchange) -> tuple[bytes, bytes]:
    """The header that ends a session."""
    return _header(exchange, "", 0)


def _header(exchange: Exchange, value: str, seconds: int) -> tuple[bytes, bytes]:
    secure = "; Secure" if _is_secure(exchange) else ""
    text = f"{_name(exchange)}={value}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict{secure}"
    return b"set-cookie", text.encode()


def _name(exchange: Exchange) -> str:
    return _SECURE_COOKIE if _is_secure(exchange) else _COOKIE


def _is_secure(exchange: Exchange) -> bool:
    return exchange.scope.get("scheme") == "https"

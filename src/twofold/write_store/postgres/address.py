"""In charge of what the URL of a PostgreSQL log says: where the server is, and which schema holds the log."""

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from twofold.errors import WiringError

SCHEMA = "twofold"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_YES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Address(NamedTuple):
    """`dsn` is what the driver takes; `pgbouncer` says that each statement may meet another server connection."""

    dsn: str
    schema: str
    pgbouncer: bool

    @property
    def shown(self) -> str:
        """The URL without its password, for people."""
        parts = urlsplit(self.dsn)
        user, at, hosts = parts.netloc.rpartition("@")
        return f"{hosts if not at else user.partition(':')[0] + '@' + hosts}{parts.path}, schema {self.schema}"


def address_of(url: str) -> Address:
    """The parts of a `postgresql://` URL. WiringError, naming the parameter and the cure, where one does not fit.

    `schema=NAME` (`twofold` unless given) and `pgbouncer=true` are ours; all others go to the driver.
    """
    try:
        parts = urlsplit(url)
        for host in parts.netloc.rpartition("@")[2].split(","):
            # Reading the port checks it: the driver's own complaint would show part of a password.
            _ = urlsplit(f"//{host}").port
    except ValueError:
        raise WiringError(
            "The store's URL cannot be read. Write postgresql://user:password@host:port/database, and in the password "
            "%2F for '/', %3A for ':', %40 for '@', %23 for '#', %3F for '?', %25 for '%'."
        ) from None
    ours = {"schema": SCHEMA, "pgbouncer": "false"}
    others: list[tuple[str, str]] = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in ours:
            ours[name] = value
        else:
            others.append((name, value))
    if not _NAME.fullmatch(ours["schema"]) or ours["schema"].startswith("pg_"):
        raise WiringError(
            f"The schema {ours['schema']!r} in the store's URL does not fit: use small letters, digits, underscores, "
            "at most 63, not beginning with a digit or 'pg_'."
        )
    if ours["pgbouncer"] not in _YES:
        raise WiringError(f"pgbouncer={ours['pgbouncer']} in the store's URL is neither true nor false.")
    database = unquote(parts.path.removeprefix("/"))
    if not database:
        raise WiringError("The store's URL names no database. Write postgresql://user@host/database.")
    hosts = parts.netloc.rpartition("@")[2] + dict(others).get("host", "")
    if "," in hosts and "target_session_attrs" not in dict(others):
        # Of several servers the one that takes writes.
        others.append(("target_session_attrs", "read-write"))
    query = urlencode(others, quote_via=quote)
    dsn = urlunsplit(("postgresql", parts.netloc, parts.path, query, ""))
    return Address(dsn, ours["schema"], _YES[ours["pgbouncer"]])

"""In charge of what the URL of read models in MongoDB says: which servers, and which database holds them."""

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from twofold.errors import WiringError

DATABASE = "twofold"
_NAME = re.compile(r"""[^/\\. "$*<>:|?\x00]+""")
_LONGEST_NAME = 63  # bytes


class Address(NamedTuple):
    """`url` is what the driver takes; `database` holds the collections."""

    url: str
    database: str

    @property
    def shown(self) -> str:
        """The URL for people: without user, password and parameters."""
        return f"{self.hosts}/{self.database}"

    @property
    def hosts(self) -> str:
        """The servers as they are written there, parted by commas."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def parameters(self) -> dict[str, str]:
        """What the URL says beyond servers and database, by names in small letters."""
        return {name.lower(): value for name, value in parse_qsl(urlsplit(self.url).query, keep_blank_values=True)}


def address_of(url: str) -> Address:
    """The parts of a `mongodb://` or `mongodb+srv://` URL. WiringError, naming the cure, where it does not fit."""
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        for host in hosts:
            # Reading the port checks it: the driver's own complaint would show part of a password.
            _ = urlsplit(f"//{host}").port
        database = unquote(parts.path.removeprefix("/"), errors="strict") or DATABASE
    except ValueError:
        raise unreadable() from None
    if not all(hosts):
        raise unreadable()
    if not _NAME.fullmatch(database) or len(database.encode()) > _LONGEST_NAME:
        raise WiringError(
            f"The database {database!r} in the read store's URL does not fit: at most {_LONGEST_NAME} bytes, without "
            'spaces, dots and any of / \\ " $ * < > : | ?.'
        )
    return Address(url, database)


def unreadable() -> WiringError:
    """What to say of a URL that cannot be read. It shows none of it, since a password may be anywhere."""
    return WiringError(
        "The read store's URL cannot be read. Write mongodb://user:password@host1,host2/database?replicaSet=rs0, and "
        "in the password %2F for '/', %3A for ':', %40 for '@', %23 for '#', %3F for '?', %25 for '%'."
    )

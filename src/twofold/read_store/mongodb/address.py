"""The URL of a read store in MongoDB: which servers, and which database holds the read models."""

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from twofold.errors import WiringError
from twofold.read_store import refusals

DATABASE = "twofold"
_NAME = re.compile(r"""[^/\\. "$*<>:|?\x00]+""")
_MAX_NAME_BYTES = 63


class MongoAddress(NamedTuple):
    """`url` is what the driver takes; `database` holds the collections."""

    url: str
    database: str

    @property
    def shown(self) -> str:
        """The URL for messages: without user, password and parameters."""
        return f"{self.hosts}/{self.database}"

    @property
    def hosts(self) -> str:
        """The servers as the URL names them, separated by commas."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def parameters(self) -> dict[str, str]:
        """The query parameters of the URL, by name in lower case."""
        return {name.lower(): value for name, value in parse_qsl(urlsplit(self.url).query, keep_blank_values=True)}


def address_of(url: str) -> MongoAddress:
    """The parts of a `mongodb://` or `mongodb+srv://` URL. WiringError, with the fix, if the URL is malformed."""
    try:
        parts = urlsplit(url)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        for host in hosts:
            # Reading the port checks it: the driver's own error would show part of a password.
            _ = urlsplit(f"//{host}").port
        database = unquote(parts.path.removeprefix("/"), errors="strict") or DATABASE
    except ValueError:
        raise malformed_url() from None
    if not all(hosts):
        raise malformed_url()
    if not _NAME.fullmatch(database) or len(database.encode()) > _MAX_NAME_BYTES:
        raise WiringError(
            f"The database name {database!r} in the read store's URL is invalid. Use at most {_MAX_NAME_BYTES} bytes, "
            'without spaces, dots and any of / \\ " $ * < > : | ?.'
        )
    return MongoAddress(url, database)


def malformed_url() -> WiringError:
    return refusals.malformed_url("mongodb://user:password@host1,host2/database?replicaSet=rs0")

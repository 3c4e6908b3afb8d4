"""In charge of what the URL of a Cassandra read store says: where the cluster is, and which keyspace holds the rows."""

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from twofold.errors import WiringError

PORT = 9042
KEYSPACE = "twofold"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_YES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_OPTIONS = "datacenter, replication, tls"


class Address(NamedTuple):
    """`datacenter` "" is that of the first host that answers; `replication` 0 leaves the number to us."""

    hosts: tuple[tuple[str, int], ...]
    keyspace: str = KEYSPACE
    user: str = ""
    password: str = ""
    datacenter: str = ""
    replication: int = 0
    tls: bool = False

    @property
    def shown(self) -> str:
        """Where it is, for people: without account."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{hosts}, keyspace {self.keyspace}"

    def __repr__(self) -> str:
        return f"<{self.shown}>"


def address_of(url: str) -> Address:
    """The parts of a `cassandra://` URL. WiringError, naming the part and the cure, where one does not fit."""
    try:
        parts = urlsplit(url)
        account, _, named = parts.netloc.rpartition("@")
        hosts = [urlsplit(f"//{host}") for host in named.split(",")]
        reached = [(host.hostname or "", host.port) for host in hosts]
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        if parts.fragment or "@" in parts.path + parts.query:
            raise ValueError("a password that is not written as a URL wants it: none of it may be shown")
    except ValueError:
        raise WiringError(
            "The read store's URL cannot be read. Write cassandra://user:password@host1,host2:9042/keyspace, and in "
            "the password %2F for '/', %3A for ':', %40 for '@', %23 for '#', %3F for '?', %25 for '%'."
        ) from None
    if not all(host for host, _ in reached):
        raise WiringError("The read store's URL names no host. Write cassandra://host1,host2:9042/keyspace.")
    keyspace = unquote(parts.path.removeprefix("/")) or KEYSPACE
    if not _NAME.fullmatch(keyspace):
        raise WiringError(
            f"The keyspace {keyspace!r} in the read store's URL does not fit: use small letters, digits, underscores, "
            "at most 48, beginning with a letter."
        )
    # A port behind the last host is meant for all.
    port = reached[-1][1] or PORT
    user, _, password = account.partition(":")
    known = {"datacenter": "", "replication": "0", "tls": "false"}
    for name, value in options:
        if name not in known:
            raise WiringError(f"The read store's URL has an option nobody knows: {name!r}. There are: {_OPTIONS}.")
        known[name] = value
    return Address(
        tuple((host, each or port) for host, each in reached),
        keyspace,
        unquote(user),
        unquote(password),
        known["datacenter"],
        _number(known["replication"]),
        _yes_or_no(known["tls"]),
    )


def _number(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 4):
        raise WiringError(f"replication={value} in the read store's URL is no number of copies. Write replication=3.")
    return int(value)


def _yes_or_no(value: str) -> bool:
    if value not in _YES:
        raise WiringError(f"tls={value} in the read store's URL is neither true nor false.")
    return _YES[value]

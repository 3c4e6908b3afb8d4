"""The URL of a read store in Cassandra: where the cluster is, and which keyspace holds the rows."""

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from twofold.errors import WiringError
from twofold.read_store import refusals

PORT = 9042
KEYSPACE = "twofold"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class CassandraAddress(NamedTuple):
    """`datacenter` "" is that of the first host that answers; `replication` 0 is one for each node, at most 3."""

    hosts: tuple[tuple[str, int], ...]
    keyspace: str = KEYSPACE
    user: str = ""
    password: str = ""
    datacenter: str = ""
    replication: int = 0
    tls: bool = False

    @property
    def shown(self) -> str:
        """The hosts and the keyspace for messages: without user and password."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{hosts}, keyspace {self.keyspace}"

    def __repr__(self) -> str:
        return f"<{self.shown}>"


def address_of(url: str) -> CassandraAddress:
    """The parts of a `cassandra://` URL. WiringError, with the part and the fix, if the URL is malformed."""
    try:
        parts = urlsplit(url)
        account, _, location = parts.netloc.rpartition("@")
        split_hosts = [urlsplit(f"//{host}") for host in location.split(",")]
        hosts = [(host.hostname or "", host.port) for host in split_hosts]
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        if parts.fragment or "@" in parts.path + parts.query:
            raise ValueError("a password with unescaped characters: no part of it may be shown")
    except ValueError:
        raise refusals.malformed_url("cassandra://user:password@host1,host2:9042/keyspace") from None
    if not all(host for host, _ in hosts):
        raise WiringError("The read store's URL names no host. Write cassandra://host1,host2:9042/keyspace.")
    keyspace = unquote(parts.path.removeprefix("/")) or KEYSPACE
    if not _NAME.fullmatch(keyspace):
        raise WiringError(
            f"The keyspace {keyspace!r} in the read store's URL is invalid. Use small letters, digits and underscores, "
            "at most 48, beginning with a letter."
        )
    options = {"datacenter": "", "replication": "0", "tls": "false"}
    for name, value in given:
        if name not in options:
            raise WiringError(f"The read store's URL has an unknown option {name!r}. Use {', '.join(options)}.")
        options[name] = value
    if options["tls"] not in _BOOLEANS:
        raise WiringError(f"tls={options['tls']} in the read store's URL is neither true nor false.")
    user, _, password = account.partition(":")
    # A port after the last host applies to all.
    port = hosts[-1][1] or PORT
    return CassandraAddress(
        hosts=tuple((host, own_port or port) for host, own_port in hosts),
        keyspace=keyspace,
        user=unquote(user),
        password=unquote(password),
        datacenter=options["datacenter"],
        replication=_number(options["replication"]),
        tls=_BOOLEANS[options["tls"]],
    )


def _number(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 4):
        raise WiringError(f"replication={value} in the read store's URL is not a number of copies. Use replication=3.")
    return int(value)

"""In charge of names in the database: readable, no longer than PostgreSQL takes, and never two things under one."""

import hashlib
import re

_LONGEST = 63
"""Bytes of an identifier. What is longer the server would cut, and two could become one."""
_NOT_PLAIN = re.compile("[^A-Za-z0-9_-]")


def table_name(model: str, generation: int) -> str:
    """The table of one generation of a read model, not quoted."""
    return fitting(f"{_plain(model)}@{generation}")


def fitting(name: str) -> str:
    """The name itself, or where it is too long its beginning and a digest of the whole."""
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) <= _LONGEST:
        return name
    digest = hashlib.blake2s(encoded, digest_size=8).hexdigest()
    # No other part of a name has a tilde.
    return f"{encoded[: _LONGEST - len(digest) - 1].decode(errors='ignore')}~{digest}"


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _plain(model: str) -> str:
    """Letters and digits as they are, every other byte as %xx."""
    return _NOT_PLAIN.sub(
        lambda found: "".join(f"%{byte:02x}" for byte in found.group().encode("utf-8", "surrogatepass")), model
    )

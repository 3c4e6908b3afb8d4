"""Names and text as PostgreSQL can store and index them: without NUL, and no longer than an entry of an index.

The order by code points stays the same. `escaped` writes NUL as 0x01 0x01, and 0x01 as 0x01 0x02. An entry of an
index has at most 2,704 bytes for all its columns. What is longer than the share of its column is cut there; the whole
is stored in a second column, which decides between values that are cut to the same text.
"""

import hashlib
import re
from collections.abc import Sequence

KEY_BYTES = 1_050
"""Enough for every key of plain letters: keys have 1,024 characters at most."""

_LAST = "\U0010ffff"
"""Marks what was cut. It sorts behind all texts that fit and begin the same way, since what did not fit began with a
longer character."""

_LONGEST_NAME = 63
"""Bytes of an identifier. The server would cut a longer one, and two could become one."""
_NOT_PLAIN = re.compile("[^A-Za-z0-9_-]")

_ESCAPES = str.maketrans({"\0": "\1\1", "\1": "\1\2"})
_ESCAPED = re.compile("\1([\1\2])")


def escaped(text: str) -> str:
    """A text as the server can store it. UnicodeEncodeError for half of a surrogate pair."""
    if not text.isascii():
        text.encode()
    return text.translate(_ESCAPES) if "\0" in text or "\1" in text else text


def unescaped(stored: str) -> str:
    """The text of which `escaped` made this."""
    return _ESCAPED.sub(lambda match: "\0" if match[1] == "\1" else "\1", stored) if "\1" in stored else stored


def cut(text: str, most: int) -> str | None:
    """At most the first `most` bytes of an escaped text, marked; None where it has no more than that."""
    if 4 * len(text) <= most or (len(text) <= most and text.isascii()):
        return None
    encoded = text.encode()
    return None if len(encoded) <= most else encoded[:most].decode(errors="ignore") + _LAST


def all_fit(texts: Sequence[str], most: int) -> bool:
    """Whether all of these are stored unchanged: true for nearly all batches, and decided quickly."""
    joined = "".join(texts)
    longest = max(map(len, texts), default=0)
    return escaped(joined) is joined and (4 * longest <= most or all(cut(text, most) is None for text in texts))


def all_short(keys: Sequence[str]) -> bool:
    return all_fit(keys, KEY_BYTES)


def short_key(key: str) -> str:
    """What represents a key in the primary key: itself, escaped, unless it is too long.

    Two keys never share it. Finds return keys that agree in their first 1,050 bytes in some order.
    """
    text = escaped(key)
    head = cut(text, KEY_BYTES)
    return text if head is None else head + hashlib.blake2s(text.encode()).hexdigest()


def begins_like(key: str) -> str:
    """The beginning of a key's short key, which the short keys of all keys with the same first bytes share."""
    text = escaped(key)
    return cut(text, KEY_BYTES) or text


def whole_key(key: str) -> str | None:
    """The escaped key where `short_key` is not all of it."""
    text = escaped(key)
    return None if cut(text, KEY_BYTES) is None else text


def key_of(short: str, whole: str | None) -> str:
    return unescaped(short if whole is None else whole)


def table_name(model: str, generation: int) -> str:
    """The table of one generation of a read model, not quoted."""
    return fitting(f"{_plain(model)}@{generation}")


def fitting(name: str) -> str:
    """The name itself or, if it is too long, its beginning and a digest of the whole."""
    encoded = name.encode("utf-8", "surrogatepass")
    if len(encoded) <= _LONGEST_NAME:
        return name
    digest = hashlib.blake2s(encoded, digest_size=8).hexdigest()
    # No other part of a name has a tilde.
    return f"{encoded[: _LONGEST_NAME - len(digest) - 1].decode(errors='ignore')}~{digest}"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str, name: str) -> str:
    return f"{quoted(schema)}.{quoted(name)}"


def _plain(model: str) -> str:
    """Letters and digits unchanged, every other byte as %xx."""
    return _NOT_PLAIN.sub(
        lambda match: "".join(f"%{byte:02x}" for byte in match.group().encode("utf-8", "surrogatepass")), model
    )

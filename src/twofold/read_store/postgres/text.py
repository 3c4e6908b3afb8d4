"""In charge of text as PostgreSQL can keep and index it: without NUL, and no longer than an entry of an index.

The order by code points stays what it was. `escaped` writes NUL as 0x01 0x01, and 0x01 as 0x01 0x02. An entry of an
index has at most 2,704 bytes for all its columns; what is longer than a column's share is cut there, and the whole is
kept in a second column, which decides between values that are cut to the same text.
"""

import hashlib
import re
from collections.abc import Sequence

KEY_BYTES = 1_050
"""Room for each key of plain letters: keys have 1,024 characters at most."""

_LAST = "\U0010ffff"
"""Marks what was cut. It sorts behind all that fits and begins alike, since what did not fit began with a longer
character."""

_ESCAPES = str.maketrans({"\0": "\1\1", "\1": "\1\2"})
_ESCAPED = re.compile("\1([\1\2])")


def escaped(text: str) -> str:
    """A text as the server can keep it. UnicodeEncodeError where it is none (half of a surrogate pair)."""
    if not text.isascii():
        text.encode()
    return text.translate(_ESCAPES) if "\0" in text or "\1" in text else text


def unescaped(kept: str) -> str:
    """The text that `escaped` made this of."""
    return _ESCAPED.sub(lambda found: "\0" if found[1] == "\1" else "\1", kept) if "\1" in kept else kept


def cut(kept: str, most: int) -> str | None:
    """At most the first `most` bytes of an escaped text, marked; None where it has no more than that."""
    if 4 * len(kept) <= most or (len(kept) <= most and kept.isascii()):
        return None
    encoded = kept.encode()
    return None if len(encoded) <= most else encoded[:most].decode(errors="ignore") + _LAST


def all_fit(texts: Sequence[str], most: int) -> bool:
    """Whether all of these are kept as they are, whole: true for nearly all batches, and told quickly."""
    joined = "".join(texts)
    longest = max(map(len, texts), default=0)
    return escaped(joined) is joined and (4 * longest <= most or all(cut(each, most) is None for each in texts))


def all_short(keys: Sequence[str]) -> bool:
    """Whether each of these keys stands for itself."""
    return all_fit(keys, KEY_BYTES)


def short_key(key: str) -> str:
    """What stands for a key in the primary key: itself, escaped, unless it is too long.

    Two keys never share it. Finds return keys that agree in their first 1,050 bytes in some order.
    """
    kept = escaped(key)
    head = cut(kept, KEY_BYTES)
    return kept if head is None else head + hashlib.blake2s(kept.encode()).hexdigest()


def begins_like(key: str) -> str:
    """What is no later than what stands for a key, and begins all that stand for keys which were cut where it was."""
    kept = escaped(key)
    return cut(kept, KEY_BYTES) or kept


def whole_key(key: str) -> str | None:
    """The escaped key where `short_key` is not all of it."""
    kept = escaped(key)
    return None if cut(kept, KEY_BYTES) is None else kept


def key_of(short: str, whole: str | None) -> str:
    """The key that is kept as these two."""
    return unescaped(short if whole is None else whole)

"""Packed payloads: compressed with a dictionary of their type, which holds some earlier payloads.

Events are small, and those of one type are alike: names of fields, dates, common words. DEFLATE (RFC 1951) with such a
dictionary needs a fifth of the bytes. The stored forms are described in `migrations/0004_packing.sql`.
"""

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apsw
import msgspec

from twofold.errors import TwofoldError

_WINDOW_BITS = 10
"""A window of 1,024 bytes: state that is copied for each payload, so a larger one takes longer."""
_MEMORY_LEVEL = 1
_LEVEL = 6
_DICTIONARY_BYTES = 760
"""zlib refers back to the window without its last 262 bytes."""
_PLAIN = 0
FIRST_OF_JSON = 9
"""Packed payloads begin with a byte below this one; JSON begins with a tab (9) or a higher byte."""
_MOST_NUMBERS = FIRST_OF_JSON - 1
_SAMPLES = 256
"""Events of a type before its dictionary is made."""
_SAMPLE_BYTES = 1_024
_BYTES_SAVED = 48
"""Bytes that a dictionary must save of an event: unpacking takes about as long as reading the row."""
_MOST_BYTES = 8_192
"""Larger payloads are not packed: that would take too long within a commit."""
COPIES = 2

_LOAD = """
select type_id, number, copy, version, cast(content as blob), cast(digest as blob) from payload_dictionaries
where log_id = ? order by type_id, number, copy
"""
_NUMBERS = "select type_id, max(number) from payload_dictionaries where log_id = ? group by type_id"
_ADD = """
insert into payload_dictionaries (log_id, type_id, number, copy, version, content, digest) values (?, ?, ?, ?, ?, ?, ?)
"""
# The length of a payload is known without reading it. Damage may have made another kind of value of it.
_LAST = """
select cast(coalesce(substr(e.payload, 1, ?4), x'') as blob), e.version from (
    select position from event_tags where log_id = ?1 and tag = '' and type_id = ?2 order by position desc limit ?3
) as last
join events as e on e.log_id = ?1 and e.position = last.position
where length(e.payload) <= ?5 order by e.position desc
"""


class DamagedPayload(TwofoldError):
    """A stored payload cannot be unpacked."""


class _Dictionary(NamedTuple):
    type_id: int
    number: int
    version: int
    content: bytes


def is_packed(stored: bytes) -> bool:
    """Whether a payload is not stored as it is."""
    return stored != b"" and stored[0] < FIRST_OF_JSON


class PayloadUnpacker:
    """Unpacks the stored payloads of one log, read over one connection."""

    def __init__(self, connection: apsw.Connection, log_id: int) -> None:
        self._connection = connection
        self._log_id = log_id
        self._inflate: dict[int, Any] = {}

    def unpack(self, type_id: int, stored: bytes) -> bytes:
        """The payload of an event, which `is_packed`. DamagedPayload where it cannot be unpacked."""
        number = stored[0]
        if number == _PLAIN:
            return stored[1:]
        stream = (self._inflate.get(type_id << 4 | number) or self._load(type_id, number)).copy()
        try:
            payload: bytes = stream.decompress(stored[1:-1], _MOST_BYTES + 1)
        except zlib.error as error:
            raise DamagedPayload(f"It cannot be unpacked ({error})") from error
        if not stream.eof or stream.unused_data:
            raise DamagedPayload("It cannot be unpacked (it does not end where it must)")
        return payload

    def unpack_checked(self, type_id: int, stored: bytes) -> bytes:
        """The same, and DamagedPayload, too, where a bit was changed that makes no difference to the payload."""
        if stored[0] != _PLAIN and _checksum(stored[:-1]) != stored[-1:]:
            raise DamagedPayload("Its checksum does not fit")
        return self.unpack(type_id, stored)

    def _load(self, type_id: int, number: int) -> Any:
        for known in _dictionaries(self._connection, self._log_id):
            primed = zlib.decompressobj(-_WINDOW_BITS, zdict=known.content)
            self._inflate.setdefault(known.type_id << 4 | known.number, primed)
        found = self._inflate.get(type_id << 4 | number)
        if found is None:
            raise DamagedPayload(f"Dictionary {number} of its type, with which it is packed, is missing or damaged")
        return found


class _NoDictionary(msgspec.Struct, eq=False):
    """A version of a type without a dictionary. `missing`: how many events it takes until one is made.

    `wait`: how many it takes after that, if a dictionary would save too little.
    """

    missing: int
    wait: int


class PayloadPacker:
    """Packs the payloads that are written to one log, and makes dictionaries once there are enough payloads of a type.

    Call `add_dictionaries` in a transaction, and `reload` after one that was rolled back.
    """

    def __init__(self, connection: apsw.Connection, log_id: int) -> None:
        self._connection = connection
        self._log_id = log_id
        self.reload()

    def reload(self) -> None:
        """Forget all that is not stored."""
        self._deflate: dict[tuple[int, int], tuple[bytes, Any]] = {}
        self._without: dict[tuple[int, int], _NoDictionary] = {}
        self._due: set[tuple[int, int]] = set()
        # Also of damaged ones: their numbers are taken.
        self._numbers: dict[int, int] = dict(self._connection.execute(_NUMBERS, (self._log_id,)))
        for known in _dictionaries(self._connection, self._log_id):
            self._use(known)

    def pack(self, type_id: int, version: int, payload: bytes) -> bytes:
        """The payload as it is stored."""
        deflate = self._deflate.get((type_id, version))
        if deflate is None:
            self._count(type_id, version)
        elif len(payload) <= _MOST_BYTES:
            number, primed = deflate
            packed = number + _packed(primed, payload)
            if len(packed) + 1 < len(payload):
                return packed + _checksum(packed)
        return b"\0" + payload if is_packed(payload) else payload

    def add_dictionaries(self) -> None:
        """Make a dictionary that is due, where it would save enough. Call it after the events are written."""
        # Not all at once: each takes some milliseconds of the commit.
        if self._due:
            type_id, version = self._due.pop()
            payloads = self._last_payloads(type_id, version)
            number = self._numbers.get(type_id, 0) + 1
            content = _dictionary_of(payloads) if number <= _MOST_NUMBERS else b""
            if content:
                rows = [(type_id, number, copy, version, content) for copy in range(COPIES)]
                self._connection.executemany(_ADD, [(self._log_id, *row, _digest(*row)) for row in rows])
                self._use(_Dictionary(type_id, number, version, content))
                del self._without[type_id, version]
            else:
                waiting = self._without[type_id, version]
                waiting.missing, waiting.wait = waiting.wait, 4 * waiting.wait

    def _use(self, known: _Dictionary) -> None:
        primed = _deflate(known.content)
        self._deflate[known.type_id, known.version] = bytes((known.number,)), primed
        self._numbers[known.type_id] = max(known.number, self._numbers.get(known.type_id, 0))

    def _count(self, type_id: int, version: int) -> None:
        waiting = self._without.get((type_id, version))
        if waiting is None:
            stored = len(self._last_payloads(type_id, version))
            waiting = self._without[type_id, version] = _NoDictionary(_SAMPLES - stored, 4 * _SAMPLES)
        waiting.missing -= 1
        if waiting.missing <= 0:
            self._due.add((type_id, version))

    def _last_payloads(self, type_id: int, version: int) -> list[bytes]:
        """The beginnings of the last payloads of a version that are not packed, oldest first."""
        bound = (self._log_id, type_id, _SAMPLES, _SAMPLE_BYTES, _MOST_BYTES)
        payloads: list[bytes] = []
        for payload, of in self._connection.execute(_LAST, bound):
            if is_packed(payload):
                # The rows of its dictionary may be lost. Its number must not be used again.
                self._numbers[type_id] = max(payload[0], self._numbers.get(type_id, 0))
            elif of == version:
                payloads.append(payload)
        return payloads[::-1]


def damaged_dictionaries(connection: apsw.Connection, log_id: int) -> Iterator[str]:
    """What is wrong with the stored dictionaries of a log, in sentences."""
    copies: dict[tuple[int, int], int] = {}
    for *row, digest in connection.execute(_LOAD, (log_id,)):
        copies.setdefault((row[0], row[1]), 0)
        if _digest(*row) == digest:
            copies[row[0], row[1]] += 1
        else:
            yield f"Copy {row[2]} of dictionary {row[1]} of event type {row[0]} is damaged."
    for (type_id, number), sound in copies.items():
        if sound != COPIES:
            yield f"Dictionary {number} of event type {type_id} has {sound} sound copies instead of {COPIES}."


def _dictionaries(connection: apsw.Connection, log_id: int) -> Iterator[_Dictionary]:
    """The stored dictionaries, each from its first copy that is sound."""
    done: set[tuple[int, int]] = set()
    for type_id, number, copy, version, content, digest in connection.execute(_LOAD, (log_id,)):
        if (type_id, number) not in done and _digest(type_id, number, copy, version, content) == digest:
            done.add((type_id, number))
            yield _Dictionary(type_id, number, version, content)


def _dictionary_of(payloads: Sequence[bytes]) -> bytes:
    """A dictionary for payloads like these; empty where it would save too little of those that are not in it.

    If all are in it, payloads of the type repeat.

    DEFLATE finds what is near at less cost, so the newest are at the end.
    """
    newest: list[bytes] = []
    room = _DICTIONARY_BYTES
    for payload in dict.fromkeys(reversed(payloads)):
        if len(payload) <= room:
            newest.append(payload)
            room -= len(payload)
    content = b"".join(reversed(newest)) or b"".join(payloads[-1:])[:_DICTIONARY_BYTES]
    others = [payload for payload in payloads if payload not in newest] or payloads
    primed = _deflate(content)
    saved = sum([len(payload) - 2 - len(_packed(primed, payload)) for payload in others])
    return content if saved >= _BYTES_SAVED * len(others) > 0 else b""


def _deflate(content: bytes) -> Any:
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, -_WINDOW_BITS, _MEMORY_LEVEL, zdict=content)


def _packed(primed: Any, payload: bytes) -> bytes:
    stream = primed.copy()
    packed: bytes = stream.compress(payload) + stream.flush()
    return packed


def _checksum(packed: bytes) -> bytes:
    """One byte that is another one if a bit is changed: not every bit of DEFLATE makes a difference to the payload."""
    return (sum(packed) & 255).to_bytes()


def _digest(*row: int | bytes) -> bytes:
    return hashlib.sha256(repr(row).encode()).digest()[:16]

"""Checksums of what the hash chain does not cover: remembered commands, rows, and the beginnings of epochs.

A stored row carries its own checksum. Beside the head stand the sums of the checksums of all remembered commands and
of all rows, so that a missing one is found, and an older one in place of the present one. A checksum shows damage, not
a person's change: anybody can compute it. `migrations/0011_checksums.sql` computes the same in PostgreSQL.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

_NOT_WRITTEN = "is not what was written. Run `twofold verify`, then restore the log from a backup."


def command_checksum(
    command_id: str, request_hash: Any, position: int, count: int, recorded_at: int, nonce: int = 0
) -> int:
    """The checksum of a remembered command: 32 bits; -1 where the hash of its request is no bytes, in a damaged file.

    `nonce` is 0 where the store keeps none.
    """
    if not isinstance(request_hash, bytes):
        return -1
    numbers = b"%d %d %d %d %d " % (position, count, recorded_at, nonce, len(request_hash))
    return _first_bits(numbers + request_hash + _utf8(command_id))


def row_checksum(space: str, key: str, version: int, value: Any) -> int:
    """The checksum of a row: 32 bits; -1 where its value is no bytes, in a damaged file."""
    if not isinstance(value, bytes):
        return -1
    name, place = _utf8(space), _utf8(key)
    return _first_bits(b"%d %d %d %b%b%b" % (version, len(name), len(place), name, place, value))


def numbers_checksum(*numbers: int) -> int:
    """The checksum of some numbers: 32 bits."""
    return _first_bits(" ".join(map(str, numbers)).encode())


def epoch_checksums(epochs: Sequence[tuple[int, int]]) -> list[int]:
    """The checksums of the epochs after the first, each given with the position after which it began, in order.

    Each is over the one before too, so that a missing one is found.
    """
    checksums: list[int] = []
    last = 0
    for epoch, after in epochs:
        last = numbers_checksum(epoch, after, last)
        checksums.append(last)
    return checksums


def damaged_command(command_id: str) -> str:
    """What is wrong with a remembered command that does not have its checksum, and what to do."""
    return f"The log is damaged. What is remembered of the command id '{command_id}' {_NOT_WRITTEN}"


def damaged_row(space: str, key: str) -> str:
    """What is wrong with a row that does not have its checksum, and what to do."""
    return f"The log is damaged. The row '{key}' of '{space}' {_NOT_WRITTEN}"


def _first_bits(data: bytes) -> int:
    return int.from_bytes(sha256(data).digest()[:4])


def _utf8(text: str) -> bytes:
    # What is read from a damaged file need not be UTF-8.
    return text.encode(errors="surrogateescape")

"""Values as SQL literals, and rows in COPY's binary format, for connections without prepared statements.

The format: https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_INTEGERS = {"int": struct.Struct("!i"), "bigint": struct.Struct("!q")}
_ARRAY_HEADER = struct.Struct("!iiI")
_DIMENSION = struct.Struct("!ii")
_LENGTH = struct.Struct("!i")
_FIELDS = struct.Struct("!h")


def literal(value: Any, type: str) -> str:
    """An SQL expression for a value of an SQL type, safe for any content."""
    if value is None:
        return f"null::{type}"
    if type.endswith("[]"):
        inside = type.removesuffix("[]")
        return f"array[{', '.join(literal(item, inside) for item in value)}]::{type}"
    if type in _INTEGERS:
        # SQL reads the digits before the sign, and the least number of a type is out of range without its sign.
        return str(int(value)) if value >= 0 else f"'{int(value)}'::{type}"
    if type == "bytea":
        return rf"E'\\x{bytes(value).hex()}'::bytea"
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{value!r} is not a {type}")
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    # E'…' has the same meaning for every setting of standard_conforming_strings.
    return f"E'{escaped}'::{type}"


def rows(copied: bytes, types: Sequence[str]) -> list[tuple[Any, ...]]:
    """The rows of a binary COPY, whose columns are of these types."""
    if not copied.startswith(_SIGNATURE):
        raise ValueError("the server did not answer in COPY's binary format")
    (extension,) = _LENGTH.unpack_from(copied, len(_SIGNATURE) + 4)
    at = len(_SIGNATURE) + 8 + extension
    readers = [_reader(type) for type in types]
    result: list[tuple[Any, ...]] = []
    while True:
        (fields,) = _FIELDS.unpack_from(copied, at)
        at += 2
        if fields == -1:
            return result
        row: list[Any] = []
        for read in readers:
            value, at = _field(copied, at)
            row.append(None if value is None else read(value))
        result.append(tuple(row))


def _field(data: bytes, at: int) -> tuple[bytes | None, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    at += 4
    return (None, at) if length == -1 else (data[at : at + length], at + length)


def _reader(type: str) -> Callable[[bytes], Any]:
    if type.endswith("[]"):
        inside = _reader(type.removesuffix("[]"))
        return lambda data: _array(data, inside)
    if type in _INTEGERS:
        unpack = _INTEGERS[type].unpack
        return lambda data: unpack(data)[0]
    return bytes.decode if type == "text" else bytes


def _array(data: bytes, read: Callable[[bytes], Any]) -> list[Any]:
    dimensions, _, _ = _ARRAY_HEADER.unpack_from(data)
    if not dimensions:
        return []
    length, _ = _DIMENSION.unpack_from(data, _ARRAY_HEADER.size)
    at = _ARRAY_HEADER.size + _DIMENSION.size
    items: list[Any] = []
    for _ in range(length):
        value, at = _field(data, at)
        items.append(None if value is None else read(value))
    return items

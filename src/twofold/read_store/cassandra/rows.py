"""Rows as Cassandra stores them: as JSON, and as index entries, one for each declared access.

Every declared filter, and no filter, times every order is an *access*. All accesses share one table:

    access      text          `customer,note by total`: fields filtered by, field ordered by; `*` is no filter
    part        list<text>    the filter's values; without filter one of BUCKETS, so that no partition holds all rows
    sort_key    text          the value ordered by
    key, row    text

(access, part) is the partition, (sort_key, key) the order in it. Values are text that sorts, byte by byte, as the
column values do: empty for None, `=` and the text for text, `=` and 20 digits for a number.
"""

import struct
from typing import Any, NamedTuple

import msgspec

from twofold.errors import InvalidMessage
from twofold.read_store.access import declared_accesses
from twofold.read_store.columns import ColumnValue, columns_of
from twofold.read_store.corruption import row_decoder
from twofold.read_store.partition import slot_of
from twofold.read_store.port import ReadModel

BUCKETS = 8
MAX_ROW_BYTES = 4 * 1024 * 1024
"""The limit for a row as JSON. A server takes 8 or 16 MiB in one request, depending on its configuration."""
_MAX_KEY_BYTES = 65_535
"""The limit for a partition key, and for what orders the rows within a partition."""
_VALUE_OVERHEAD = 8
"""Bytes that a value takes there in addition to itself, at most."""

_encode = msgspec.json.Encoder().encode
_double = struct.Struct(">d")
_bits = struct.Struct(">Q")

AccessFields = tuple[str, tuple[str, ...], str | None]
"""The name of an access, the fields it filters by, and the field it orders by."""


class IndexEntry(NamedTuple):
    """Where a row is in one access. `part` is the partition, `sort_key` its place there."""

    access: str
    part: tuple[str, ...]
    sort_key: str


class CassandraLayout:
    """One read model as it is declared: its accesses, its rows as JSON and as index entries. Raises as `columns_of`.

    `decode` reads a row from its JSON, as `row_decoder` says.
    """

    def __init__(self, model: ReadModel) -> None:
        self.model = model
        self.columns = columns_of(model)
        self.decode = row_decoder(model)
        self._accesses = [(access_name(*access), *access) for access in declared_accesses(model)]
        self._values = [(field, column.of) for field, column in self.columns.items()]
        # With the kinds: a field of another type sorts differently.
        self.declared = "; ".join(
            [*sorted(name for name, *_ in self._accesses), *sorted(f"{f}: {c.kind}" for f, c in self.columns.items())]
        )

    def entries(self, key: str, row: Any) -> list[IndexEntry]:
        """The index entries of a row. InvalidMessage, with the field, for a value that cannot be part of one."""
        texts = {field: text_of(value(row)) for field, value in self._values}
        entries = [
            IndexEntry(
                name,
                tuple([texts[field] for field in group]) if group else bucket_of(key),
                texts[order] if order else "",
            )
            for name, group, order in self._accesses
        ]
        if sum(map(len, texts.values())) + len(key) > _MAX_KEY_BYTES // 4 - 1_000:
            for entry, (_, group, order) in zip(entries, self._accesses, strict=True):
                _check_length(key, entry, group, order)
        return entries

    def encode(self, row: Any) -> str:
        """A row as JSON. InvalidMessage if it is too long."""
        text = _encode(row).decode()
        if len(text) > MAX_ROW_BYTES // 4 and len(text.encode()) > MAX_ROW_BYTES:
            raise InvalidMessage(f"The row is longer as JSON than the limit of {MAX_ROW_BYTES:,} bytes")
        return text

    def parts(self, group: tuple[str, ...], values: tuple[ColumnValue, ...]) -> list[tuple[str, ...]]:
        """The partitions that hold what a filter finds. InvalidMessage for a value that is too long to be stored."""
        if not group:
            return [(str(bucket),) for bucket in range(BUCKETS)]
        part = tuple(map(text_of, values))
        _check_length("", IndexEntry("", part, ""), group, None)
        return [part]


def access_name(group: tuple[str, ...], order: str | None) -> str:
    fields = ",".join(group) or "*"
    return f"{fields} by {order}" if order else fields


ALL_BY_KEY = access_name((), None)
"""The access that every read model has."""


def parse_declared(declared: str) -> tuple[list[AccessFields], dict[str, str]]:
    """What `CassandraLayout.declared` says: the accesses, and the kinds of all fields."""
    parts = [part for part in declared.split("; ") if part]
    kinds = dict(part.split(": ", 1) for part in parts if ": " in part)
    accesses: list[AccessFields] = []
    for name in (part for part in parts if ": " not in part):
        fields, by, order = name.partition(" by ")
        accesses.append((name, () if fields == "*" else tuple(fields.split(",")), order if by else None))
    return accesses, kinds


def bucket_of(key: str) -> tuple[str, ...]:
    """The partition of a key in accesses without filter."""
    return (str(slot_of(key) % BUCKETS),)


def text_of(value: ColumnValue) -> str:
    """A column value as text that sorts as it does."""
    if value is None:
        return ""
    return f"={value}" if isinstance(value, str) else f"={_number(value)}"


def _number(value: float) -> str:
    """Twenty hexadecimal digits: the nearest double, then how far the number is from it.

    A double alone does not distinguish whole numbers beyond 53 bits, and text of whole numbers has no fractions.
    """
    double = float(value) or 0.0
    (bits,) = _bits.unpack(_double.pack(double))
    bits = bits ^ 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else bits | 1 << 63
    rest = int(value) - int(double) if isinstance(value, int) else 0
    return f"{bits:016x}{rest + 0x8000:04x}"


def _check_length(key: str, entry: IndexEntry, group: tuple[str, ...], order: str | None) -> None:
    """InvalidMessage, with the longest field, if the entry is longer than Cassandra's keys may be."""
    clustering = [(order, entry.sort_key), (None, key)]
    partition = [*zip(group, entry.part, strict=False), (None, entry.access)]
    for keyed in (clustering, partition):
        sizes = {field: len(text.encode()) + _VALUE_OVERHEAD for field, text in keyed}
        if sum(sizes.values()) > _MAX_KEY_BYTES:
            field = max(sizes, key=lambda field: sizes[field])
            raise InvalidMessage(
                f"'{field or 'key'}' is too long to be found or ordered by in Cassandra, which takes 64 KiB for all "
                "fields of an access together. Shorten it, or declare another field",
                field=field,
            )

"""In charge of where the rows of a read model are found: the places of each row, one for each declared access.

Every filter that is declared, and no filter, times every order is an *access*, kept in one table:

    access      text          `customer,note by total`: fields filtered by, field ordered by; `*` is no filter
    part        list<text>    the filter's values; without filter one of BUCKETS, so that no partition holds the whole
    place       text          the value ordered by
    key, row    text

(access, part) is the partition, (place, key) the order in it. Values are text that sorts, byte by byte, as the column
values do: empty for None, `=` and the text for text, `=` and 20 digits for a number.
"""

import re
import struct
from collections.abc import Callable, Iterator
from hashlib import blake2s
from itertools import product
from typing import Any, NamedTuple

import msgspec

from twofold.errors import InvalidMessage, WiringError
from twofold.read_store.columns import Column, ColumnValue, columns_of
from twofold.read_store.corruption import DECODE_ERRORS, corrupt_row, type_changed, unreadable
from twofold.read_store.partition import slot_of
from twofold.read_store.port import ReadModel

BUCKETS = 8
LONGEST_ROW = 4 * 1024 * 1024
"""Bytes of a row as JSON. A server takes 8 or 16 MiB in one request, as it is configured."""
_LONGEST = 65_535
"""Bytes of a partition key, and of what orders within one."""
_OF_A_VALUE = 8
"""What a value takes beside itself there, at most."""

_encode = msgspec.json.Encoder().encode
_double = struct.Struct(">d")
_bits = struct.Struct(">Q")


class Spot(NamedTuple):
    """Where a row is in the order of one access."""

    access: str
    part: tuple[str, ...]
    place: str


class Layout:
    """One read model as it is declared: its accesses, and the way of rows into them. Raises what `columns_of` does."""

    def __init__(self, model: ReadModel) -> None:
        self.model = model
        self.columns = columns_of(model)
        self._accesses = list(_accesses(model))
        self._texts = [(field, _text_of(column)) for field, column in self.columns.items()]
        # Types belong to it: a field of another type sorts otherwise.
        self.declared = "; ".join(
            [*sorted(name for name, *_ in self._accesses), *sorted(f"{f}: {c.kind}" for f, c in self.columns.items())]
        )
        try:
            self._decode: Callable[[str], Any] = msgspec.json.Decoder(model.row).decode
        except TypeError as error:
            raise WiringError(
                f"Rows of '{model.name}' cannot be stored as JSON: {model.row.__name__}: {error}."
            ) from error

    def spots(self, key: str, row: Any) -> list[Spot]:
        """All places of a row. InvalidMessage, naming the field, for a value that has none."""
        texts = {field: text(row) for field, text in self._texts}
        found = [
            Spot(
                name,
                tuple([texts[field] for field in group]) if group else bucket_of(key),
                texts[order] if order else "",
            )
            for name, group, order in self._accesses
        ]
        if sum(map(len, texts.values())) + len(key) > _LONGEST // 4 - 1_000:
            for spot, (_, group, order) in zip(found, self._accesses, strict=True):
                _check_length(key, spot, group, order)
        return found

    def encode(self, row: Any) -> str:
        """A row as JSON. InvalidMessage where it is too long."""
        text = _encode(row).decode()
        if len(text) > LONGEST_ROW // 4 and len(text.encode()) > LONGEST_ROW:
            raise InvalidMessage(f"The row is longer as JSON than the {LONGEST_ROW:,} bytes this store takes")
        return text

    def decode(self, stored: str) -> Any:
        """The row of its JSON. Unavailable, naming the cure, where it cannot be read as one."""
        try:
            return self._decode(stored)
        except DECODE_ERRORS as error:
            raise corrupt_row(self.model, error) from error

    def check(self, stored: str) -> None:
        """WiringError, naming the cure, where stored rows no longer fit the row type.

        One that is damaged is for an audit to find: it must not keep the app from starting.
        """
        try:
            self._decode(stored)
        except DECODE_ERRORS as error:
            if type_changed(error):
                raise WiringError(unreadable(self.model, error)) from error

    def value(self, row: Any, order: str | None) -> ColumnValue:
        """The value a row is ordered by."""
        if order is None:
            return None
        column = self.columns[order]
        return column.value(column.get(row))

    def parts(self, group: tuple[str, ...], values: tuple[ColumnValue, ...]) -> list[tuple[str, ...]]:
        """The partitions that hold what a filter finds. InvalidMessage for a value too long to be kept."""
        if not group:
            return [(str(bucket),) for bucket in range(BUCKETS)]
        part = tuple(map(text_of, values))
        _check_length("", Spot("", part, ""), group, None)
        return [part]


def access_name(group: tuple[str, ...], order: str | None) -> str:
    """An access as it is called in the table."""
    fields = ",".join(group) or "*"
    return f"{fields} by {order}" if order else fields


EVERYTHING_BY_KEY = access_name((), None)


def declared_as(declared: str) -> tuple[list[tuple[str, tuple[str, ...], str | None]], dict[str, str]]:
    """What `Layout.declared` says: accesses with the fields they filter and order by, and the kinds of all fields."""
    parts = [part for part in declared.split("; ") if part]
    kinds = dict(part.split(": ", 1) for part in parts if ": " in part)
    accesses: list[tuple[str, tuple[str, ...], str | None]] = []
    for name in (part for part in parts if ": " not in part):
        fields, by, order = name.partition(" by ")
        accesses.append((name, () if fields == "*" else tuple(fields.split(",")), order if by else None))
    return accesses, kinds


def bucket_of(key: str) -> tuple[str, ...]:
    """The partition of a key where there is no filter."""
    return (str(slot_of(key) % BUCKETS),)


def text_of(value: ColumnValue) -> str:
    """A column value as text that sorts as it does."""
    if value is None:
        return ""
    return f"={value}" if isinstance(value, str) else f"={_number(value)}"


def table_names(model: str, generation: int, build: str) -> tuple[str, str]:
    """The tables of one build of a generation: of rows by key, and of what finds read. At most 48 characters each."""
    readable = re.sub("[^a-z0-9]+", "_", model.lower())[:10].strip("_")
    named = f"{readable}_{_digest(model, generation)}_{build}"
    return f"rows_{named}", f"finds_{named}"


def is_table_of(table: str, model: str, generation: int) -> bool:
    """Whether a table belongs to any build of a generation."""
    return re.fullmatch(rf"(rows|finds)_.*_{_digest(model, generation)}_[0-9a-f]+", table) is not None


def build_name(unique: str) -> str:
    """The name of a new build."""
    return blake2s(unique.encode(), digest_size=6).hexdigest()


def _digest(model: str, generation: int) -> str:
    return blake2s(msgspec.json.encode((model, generation)), digest_size=8).hexdigest()


def _accesses(model: ReadModel) -> Iterator[tuple[str, tuple[str, ...], str | None]]:
    for group, order in product(dict.fromkeys([(), *model.find_by]), (None, *dict.fromkeys(model.order_by))):
        # Rows that were filtered by a field are alike in it: to order by it is to order by key.
        if order is None or order not in group:
            yield access_name(group, order), group, order


def _text_of(column: Column) -> Callable[[Any], str]:
    value, get = column.value, column.get
    return lambda row: text_of(value(get(row)))


def _number(value: float) -> str:
    """Twenty hexadecimal digits: the nearest double, then how far the number is from it.

    A double alone does not tell whole numbers beyond 53 bits apart, and text of whole numbers knows no fractions.
    """
    double = float(value) or 0.0
    (bits,) = _bits.unpack(_double.pack(double))
    bits = bits ^ 0xFFFF_FFFF_FFFF_FFFF if bits >> 63 else bits | 1 << 63
    rest = int(value) - int(double) if isinstance(value, int) else 0
    return f"{bits:016x}{rest + 0x8000:04x}"


def _check_length(key: str, spot: Spot, group: tuple[str, ...], order: str | None) -> None:
    """InvalidMessage, naming the longest field, where Cassandra cannot keep it in a key of its own."""
    within = [(order, spot.place), (None, key)]
    whole = [*zip(group, spot.part, strict=False), (None, spot.access)]
    for keyed in (within, whole):
        sizes = {field: len(text.encode()) + _OF_A_VALUE for field, text in keyed}
        if sum(sizes.values()) > _LONGEST:
            field = max(sizes, key=lambda each: sizes[each])
            raise InvalidMessage(
                f"'{field or 'key'}' is too long to be found or ordered by in Cassandra, which takes 64 KiB for all "
                "fields of an access together. Shorten it, or declare another field",
                field=field,
            )

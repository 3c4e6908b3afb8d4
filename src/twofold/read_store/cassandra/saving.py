"""One build of a read model's tables, written and read: rows by key, and their entries in the order of each access.

A row is one cell, whose timestamp is the row's version: of two versions Cassandra keeps the newer one, in whatever
order they arrive. So a save may be repeated, and what a process wrote before it crashed, or wrote when it should have
stopped, may arrive late.

    rows_…    key | row                               "" if the row was deleted, for a week at least
    finds_…   access, part | sort_key, key | row         see `rows`

If a row moves from one place to another, it is written to the new place and deleted from the old one, and from all
places that it had since the last save: an attempt with other page boundaries may have written it there. All of that has
the timestamp of the new version, and only then the row by key is written. So a row that can be loaded has an entry in
the places it belongs to, and in no other.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from twofold.errors import InvalidMessage, WiringError
from twofold.read_store import refusals
from twofold.read_store.access import is_text
from twofold.read_store.cassandra.connection import CassandraConnection, CassandraRow, Statement, batch, token_of
from twofold.read_store.cassandra.rows import CassandraLayout, IndexEntry
from twofold.read_store.cassandra.schema_names import table_names
from twofold.read_store.corruption import decode_at_start
from twofold.read_store.port import CorruptRow, VersionedRow

T = TypeVar("T")

_POSITIONS = 2**47
"""A timestamp has 63 bits: 47 for the position, 16 for the repair number."""
_REPAIRS = 2**16
_A_WEEK = 7 * 24 * 60 * 60
_ROWS_PER_STEP = 500
"""Rows whose statements are made without yielding to the event loop."""
_LARGEST_BATCH = 4_000
"""Characters. Cassandra warns of more than 5 KiB, and refuses more than 50."""
_MOST_PARTITIONS = 10
_OVERHEAD = 60
"""What a statement takes in addition to its texts, roughly."""


class _SavedRow(NamedTuple):
    """A row to be written. `old_entries` are the index entries that it may have had before."""

    key: str
    timestamp: int
    row: str
    entries: list[IndexEntry]
    old_entries: list[IndexEntry]

    @property
    def ttl(self) -> int:
        """Seconds after which it expires; 0: never.

        The deletion of a repaired row never expires: a follower would start again with repair number 0, and what it
        writes would be older than the cells that expired or were deleted under the higher number.
        """
        return 0 if self.row or self.timestamp >= _POSITIONS else _A_WEEK


class _Unit(NamedTuple):
    """Statements in one partition that belong in one batch."""

    size: int
    statements: list[Statement]


_Units = dict[tuple[Any, ...], list[_Unit]]
"""By partition."""


class CassandraTables:
    """The tables of one build."""

    def __init__(self, connection: CassandraConnection, layout: CassandraLayout, build: str) -> None:
        self.layout = layout
        self.build = build
        names = table_names(layout.model.name, layout.model.generation, build)
        self.rows, self.finds = (f"{connection.address.keyspace}.{name}" for name in names)
        self._connection = connection

    async def create(self) -> None:
        """Create the tables. No other process uses these names."""
        await self._connection.define(f"create table if not exists {self.rows} (key text primary key, row text)")
        await self._connection.define(
            f"create table if not exists {self.finds} (access text, part frozen<list<text>>, sort_key text, key text,"
            " row text, primary key ((access, part), sort_key, key))"
        )

    async def drop(self) -> None:
        for table in (self.rows, self.finds):
            await self._connection.define(f"drop table if exists {table}")

    async def get(self, key: str) -> Any | None:
        if not is_key(key):
            return None
        rows = await self._connection.rows(f"select row from {self.rows} where key = ?", key)
        return self.layout.decode(rows[0][0]) if rows and rows[0][0] else None

    async def load(self, keys: Iterable[str]) -> dict[str, VersionedRow]:
        """The rows of many keys, including deleted ones."""
        unique = [key for key in dict.fromkeys(keys) if is_key(key)]
        select = await self._connection.prepare(f"select key, row, writetime(row) from {self.rows} where key in ?")
        return self._versioned(await self._connection.run(select.bind((part,)) for part in chunks(unique)))

    async def check(self) -> None:
        """WiringError if the rows no longer fit the row type."""
        for (row,) in await self._connection.rows(f"select row from {self.rows} limit 10"):
            if row:
                decode_at_start(self.layout.decode, row)
                break

    async def save(self, rows: Mapping[str, VersionedRow]) -> None:
        """Write rows that are newer than the stored ones. InvalidMessage, with nothing written, if one is invalid."""
        writes = [self._row_write(key, versioned) for key, versioned in rows.items()]
        for part in chunks(writes, _ROWS_PER_STEP):
            await self._write(part)

    async def copy(self, old: str) -> None:
        """Write the rows of another table. WiringError if a row does not fit the row type."""
        async for page in self._connection.pages(f"select key, row, writetime(row) from {old}"):
            try:
                await self.save(self._versioned(page))
            except CorruptRow as error:
                if not error.changed:
                    raise
                raise WiringError(str(error)) from error
            except InvalidMessage as error:
                raise WiringError(f"A stored row cannot be found as is declared now. {error}") from error

    def _versioned(self, rows: Iterable[CassandraRow]) -> dict[str, VersionedRow]:
        decode = self.layout.decode
        return {
            key: VersionedRow(decode(row) if row else None, *version_of(timestamp))
            for key, row, timestamp in rows
            if row is not None
        }

    def _row_write(self, key: str, versioned: VersionedRow) -> _SavedRow:
        layout, row = self.layout, versioned.row
        try:
            key.encode()
            text, entries = ("", []) if row is None else (layout.encode(row), layout.entries(key, row))
            timestamp = timestamp_of(versioned)
        except (InvalidMessage, TypeError, ValueError) as error:
            raise refusals.cannot_store(layout.model, key, error) from error
        old = dict.fromkeys(chain.from_iterable(self._old_entries(key, row) for row in versioned.previous_rows))
        return _SavedRow(key, timestamp, text, entries, [entry for entry in old if entry not in entries])

    def _old_entries(self, key: str, row: Any | None) -> Sequence[IndexEntry]:
        """The entries that a row may have had. A row that cannot be stored never had any."""
        try:
            return self.layout.entries(key, row) if row is not None else ()
        except InvalidMessage:
            return ()

    async def _write(self, rows: Sequence[_SavedRow]) -> None:
        prepare = self._connection.prepare
        put = await prepare(
            f"update {self.finds} using timestamp ? set row = ?"
            " where access = ? and part = ? and sort_key = ? and key = ?"
        )
        delete = await prepare(
            f"delete from {self.finds} using timestamp ? where access = ? and part = ? and sort_key = ? and key = ?"
        )
        store = await prepare(f"update {self.rows} using timestamp ? and ttl ? set row = ? where key = ?")
        puts: _Units = {}
        deletes: _Units = {}
        stores: _Units = {}
        for row in rows:
            _add_entry_statements(row, put, delete, puts, deletes)
            statement = store.bind((row.timestamp, row.ttl, row.row, row.key))
            stores[(row.key,)] = [_Unit(len(row.row) + len(row.key) + _OVERHEAD, [statement])]
        # A row that is found twice for a moment is better than one that is not found. A row that can be loaded has left
        # its old places.
        for units in (puts, deletes, stores):
            await self._connection.run(_batches(units))


def timestamp_of(versioned: VersionedRow) -> int:
    """The timestamp a row is written at. It grows with the version."""
    position, repair = versioned.position, versioned.repair
    if not 0 <= position < _POSITIONS or not 0 <= repair < _REPAIRS:
        raise InvalidMessage(f"Position {position} and repair {repair} are beyond the range of this store")
    return repair * _POSITIONS + position


def version_of(timestamp: int) -> tuple[int, int]:
    """Position and repair number of what was written at a timestamp."""
    repair, position = divmod(timestamp, _POSITIONS)
    return position, repair


def chunks(items: Sequence[T], size: int = 50) -> Iterator[Sequence[T]]:
    """The items in parts of some size; without one, as many keys as one read takes."""
    return (items[n : n + size] for n in range(0, len(items), size))


def is_key(key: str) -> bool:
    """Whether a key can be stored here: not empty, and not longer than a partition key may be."""
    return is_text(key) and 0 < len(key.encode()) <= 65_535


def _add_entry_statements(row: _SavedRow, put: Any, delete: Any, puts: _Units, deletes: _Units) -> None:
    """Add the statements that write a row's entries, and delete its old ones."""
    old: _Units = {}
    for access, part, sort_key in row.old_entries:
        size = len(sort_key) + len(row.key) + _OVERHEAD
        unit = _Unit(size, [delete.bind((row.timestamp, access, part, sort_key, row.key))])
        old.setdefault((access, part), []).append(unit)
    for access, part, sort_key in row.entries:
        size = len(row.row) + len(sort_key) + len(row.key) + _OVERHEAD
        statements = [put.bind((row.timestamp, row.row, access, part, sort_key, row.key))]
        deletable = old.get((access, part), [])
        # A move within a partition is one step: readers see it whole.
        while deletable and size + deletable[0].size <= _LARGEST_BATCH:
            size += deletable[0].size
            statements += deletable.pop(0).statements
        puts.setdefault((access, part), []).append(_Unit(size, statements))
    for partition, units in old.items():
        if units:
            deletes.setdefault(partition, []).extend(units)


def _batches(partitions: _Units) -> Iterator[Statement]:
    """Few requests: as much of a partition together as allowed, and small partitions with the same replicas."""
    together: list[Statement] = []
    size = count = 0
    for units in sorted(partitions.values(), key=lambda units: token_of(units[0].statements[0])):
        count += 1
        for unit in units:
            if together and (size + unit.size > _LARGEST_BATCH or count > _MOST_PARTITIONS):
                yield together[0] if len(together) == 1 else batch(together)
                together, size, count = [], 0, 1
            together += unit.statements
            size += unit.size
    if together:
        yield together[0] if len(together) == 1 else batch(together)

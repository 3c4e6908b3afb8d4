"""Reading what the tables of one build hold of a row, in all of its places, for audits.

The row by key and each of its index entries have the same text and timestamp, except while a row is being saved, or if
a save was interrupted, which is then repeated. So a row with a mismatch is read again: the mismatch counts if it stays
and is not ahead of the checkpoint. Entries in places that no row of the present version belongs to are not searched
for: that would need to read the whole table for each page.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from twofold.domain.events import Position
from twofold.read_store.cassandra.checkpoints import GenerationState
from twofold.read_store.cassandra.connection import CassandraConnection, Statement
from twofold.read_store.cassandra.finds import find
from twofold.read_store.cassandra.rows import ALL_BY_KEY, BUCKETS, IndexEntry, bucket_of, parse_declared, text_of
from twofold.read_store.cassandra.saving import chunks, is_key, version_of
from twofold.read_store.cassandra.schema_names import table_names
from twofold.read_store.columns import ColumnValue
from twofold.read_store.corruption import RawRowReader, raw_row
from twofold.read_store.port import RawRow, ReadModel

_READS = 5
_PAUSE = 0.3
"""Seconds between two reads: usually longer than a save takes."""


class _Cell(NamedTuple):
    """A row where it was read: by key ("": it was deleted) or as an index entry."""

    row: str | None
    timestamp: int

    @property
    def version(self) -> tuple[int, int]:
        """Position and repair number."""
        return version_of(self.timestamp)


class CassandraRowInspector:
    """Reads the raw rows of one generation, given by its `state`. `model` None is not known here."""

    def __init__(
        self,
        connection: CassandraConnection,
        identity: tuple[str, int],
        state: GenerationState,
        model: ReadModel | None,
        *,
        read_state: Callable[[], Awaitable[GenerationState]],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        names = table_names(*identity, state.build or "")
        self._rows, self._finds = (f"{connection.address.keyspace}.{name}" for name in names)
        self._connection = connection
        self._read_state = read_state
        self._sleep = sleep
        self._accesses, kinds = parse_declared(state.declared)
        self._reader = RawRowReader({field: (kind,) for field, kind in kinds.items()}, model)

    async def page(self, after: str, limit: int) -> list[tuple[str, RawRow]]:
        """See `ReadStoreMaintenance.raw_rows`."""
        partitions = [(ALL_BY_KEY, (str(bucket),)) for bucket in range(BUCKETS)]
        page = await find(self._connection, self._finds, partitions, limit, after=("", after))
        raw = await self.inspect([indexed.key for indexed in page])
        rows: list[tuple[str, RawRow]] = []
        for indexed in page:
            row = raw.get(indexed.key)
            if row is None or (row.row is None and not row.corruption):
                # It was deleted after the page was read.
                row = self._raw_row(_Cell(indexed.row, indexed.timestamp or 0))
            rows.append((indexed.key, row))
        return rows

    async def inspect(self, keys: Sequence[str]) -> dict[str, RawRow]:
        rows = await self._read([key for key in dict.fromkeys(keys) if is_key(key)])
        suspect: set[str] = {key for key, row in rows.items() if row.corruption}
        for _ in range(_READS):
            if not suspect:
                break
            await self._sleep(_PAUSE)
            again = await self._read(sorted(suspect))
            changed = {key for key in suspect if again.get(key) != rows[key]}
            rows = {key: row for key, row in rows.items() if key not in suspect} | again
            suspect = {key for key in changed if key in again and again[key].corruption}
        # A row that differs with each read is being saved all the time.
        return rows | {key: RawRow(rows[key].row, rows[key].position, rows[key].repair) for key in suspect}

    async def _read(self, keys: Sequence[str]) -> dict[str, RawRow]:
        state = await self._read_state()
        select = await self._connection.prepare(f"select key, row, writetime(row) from {self._rows} where key in ?")
        stored = await self._connection.run(select.bind((part,)) for part in chunks(keys))
        by_key = {key: _Cell(row, timestamp) for key, row, timestamp in stored if row is not None}
        expected = {key: self._expected_entries(key, by_key.get(key)) for key in keys}
        entries = await self._read_entries((key, entry) for key in keys for entry in expected[key])
        rows: dict[str, RawRow] = {}
        for key in keys:
            checkpoint = next((at.position for part, at in state.partitions.items() if part.holds(key)), 0)
            copies = {entry.access: entries.get((key, entry)) for entry in expected[key]}
            row = self._compare(by_key.get(key), copies, checkpoint)
            if row is not None:
                rows[key] = row
        return rows

    def _compare(self, row: _Cell | None, copies: Mapping[str, _Cell | None], checkpoint: Position) -> RawRow | None:
        """The row by key, compared with its copies: the index entries, by access."""
        copy = copies[ALL_BY_KEY]
        if copy is not None and _is_ahead(copy, row, checkpoint):
            return self._raw_row(copy)
        # A repair must write above all of them.
        repair = max((cell.version[1] for cell in (row, *copies.values()) if cell is not None), default=0)
        if row is not None and row.row:
            return self._raw_row(row, _mismatches(row, copies), repair)
        if copy is not None:
            return self._raw_row(copy, [f"It has an entry in '{ALL_BY_KEY}', but no row by key."], repair)
        return None if row is None else RawRow(None, *row.version)

    def _raw_row(self, cell: _Cell, mismatches: Iterable[str] = (), repair: int = 0) -> RawRow:
        position, own_repair = cell.version
        row = raw_row(self._reader.read(cell.row), position, max(own_repair, repair), {})
        corruption = " ".join([*([row.corruption] if row.corruption else []), *mismatches])
        return RawRow(row.row, row.position, row.repair, corruption)

    def _expected_entries(self, key: str, cell: _Cell | None) -> list[IndexEntry]:
        """The entries a row must have: that by key always, and others as far as the row says so."""
        no_values: Mapping[str, Sequence[ColumnValue]] = {}
        values = self._reader.read(cell.row).values if cell and cell.row else no_values
        entries: list[IndexEntry] = []
        for access, group, order in self._accesses:
            texts = {field: _text(values.get(field, ())) for field in (*group, *([order] if order else []))}
            known = {field: text for field, text in texts.items() if text is not None}
            if len(known) == len(texts):
                part = tuple(known[field] for field in group) if group else bucket_of(key)
                entries.append(IndexEntry(access, part, known[order] if order else ""))
        return entries

    async def _read_entries(self, entries: Iterable[tuple[str, IndexEntry]]) -> dict[tuple[str, IndexEntry], _Cell]:
        select = await self._connection.prepare(
            f"select access, part, sort_key, key, row, writetime(row) from {self._finds}"
            " where access = ? and part = ? and (sort_key, key) in ?"
        )
        partitions: dict[tuple[str, tuple[str, ...]], list[tuple[str, str]]] = {}
        for key, entry in entries:
            partitions.setdefault((entry.access, entry.part), []).append((entry.sort_key, key))
        statements: Iterable[Statement] = (
            select.bind((access, list(part), some))
            for (access, part), sort_keys in partitions.items()
            for some in chunks(sort_keys)
        )
        return {
            (key, IndexEntry(access, tuple(part), sort_key)): _Cell(row, timestamp or 0)
            for access, part, sort_key, key, row, timestamp in await self._connection.run(statements)
        }


def _mismatches(row: _Cell, copies: Mapping[str, _Cell | None]) -> Iterable[str]:
    for access, copy in copies.items():
        if copy is None:
            yield f"Its copy under '{access}' is missing."
        elif copy != row:
            yield f"Its copy under '{access}' says otherwise."


def _is_ahead(copy: _Cell, row: _Cell | None, checkpoint: Position) -> bool:
    """Whether an entry was written by a save that has not ended."""
    position, repair = copy.version
    if row is not None and row.timestamp >= copy.timestamp:
        return False
    return repair == (row.version[1] if row else 0) and position > checkpoint


def _text(values: Sequence[ColumnValue]) -> str | None:
    """A column value as it sorts; None if it is unknown, or ambiguous."""
    texts = {text_of(value) for value in values}
    return texts.pop() if len(texts) == 1 else None

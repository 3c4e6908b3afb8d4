"""Read models in memory: for tests, and the shortest explanation of what a read store does."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Unpack

import msgspec

from twofold.read_store.access import Access, check_access, find_page
from twofold.read_store.columns import Column, ColumnValue, columns_of
from twofold.read_store.corruption import RawRowReader, raw_row
from twofold.read_store.partition import Partition, shares
from twofold.read_store.partition_state import (
    PartitionState,
    changed_state,
    check_expected,
    checkpoints_of,
    progress_of,
    repartitioned,
)
from twofold.read_store.port import (
    Change,
    Checkpoint,
    FindOptions,
    FindPage,
    Lookup,
    Native,
    Parked,
    Progress,
    RawRow,
    ReadModel,
    VersionedRow,
)
from twofold.read_store.refusals import prepared
from twofold.world import RealWorld

_SortKey = tuple[bool, ColumnValue, str]


class _MemoryTable:
    """One read model. Once a snapshot has seen it, a save changes a copy instead."""

    def __init__(
        self, columns: dict[str, Column], reader: RawRowReader, partitions: Mapping[Partition, PartitionState]
    ) -> None:
        self.columns = columns
        self.reader = reader
        self.rows: dict[str, VersionedRow] = {}
        self.parked: dict[str, Parked] = {}
        self.partitions = dict(partitions)
        self.seen = False

    def changeable(self) -> "_MemoryTable":
        if not self.seen:
            return self
        copy = _MemoryTable(self.columns, self.reader, self.partitions)
        copy.rows, copy.parked = dict(self.rows), dict(self.parked)
        return copy


_Tables = dict[tuple[str, int], _MemoryTable]


class MemoryReadStore:
    """A read store that loses everything when the process ends."""

    save_events = 500

    def __init__(self) -> None:
        self.identity = RealWorld().new_id()
        self._tables: _Tables = {}

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            columns, reader = columns_of(model), RawRowReader({}, model)
            new = _MemoryTable(columns, reader, dict.fromkeys(shares(model.partitions), PartitionState()))
            table = self._tables.setdefault((model.name, model.generation), new).changeable()
            table.columns, table.reader = columns, reader
            self._tables[model.name, model.generation] = table

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        rows = prepared(self._tables, model).rows
        return {key: rows[key] for key in keys if key in rows}

    async def save(self, change: Change) -> None:
        table = prepared(self._tables, change.model)
        state = check_expected(change, table.partitions.get(change.partition))
        for new in change.rows.values():
            for column in table.columns.values() if new.row is not None else ():
                column.of(new.row)
        table = table.changeable()
        for key, new in change.rows.items():
            known = table.rows.get(key)
            if known is None or (new.repair, new.position) > (known.repair, known.position):
                _put(table.rows, key, None if new.row is None else VersionedRow(new.row, new.position, new.repair))
        for key, parked in change.parked.items():
            _put(table.parked, key, parked)
        table.partitions[change.partition] = changed_state(change, state)
        self._tables[change.model.name, change.model.generation] = table

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator["_MemorySnapshot"]:
        for table in self._tables.values():
            table.seen = True
        yield _MemorySnapshot(dict(self._tables))

    async def lookup(self, model: ReadModel, key: str) -> Lookup:
        table = prepared(self._tables, model)
        known = table.rows.get(key)
        return Lookup(progress_of(table.partitions), known and known.row)

    async def checkpoints(self) -> list[Checkpoint]:
        return checkpoints_of((*of, table.partitions, table.parked.values()) for of, table in self._tables.items())

    async def close(self) -> None:
        return None

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        table = prepared(self._tables, model).changeable()
        states = repartitioned(model, table.partitions, old, new, table.parked)
        others = {partition: other for partition, other in table.partitions.items() if partition not in old}
        table.partitions = others | states
        self._tables[model.name, model.generation] = table

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        table = self._tables.get((name, generation))
        keys = sorted(key for key in table.rows if key > after)[:limit] if table else []
        return [(key, _raw_row(table, key)) for key in keys if table]

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        table = self._tables.get((model.name, model.generation))
        return {key: _raw_row(table, key) for key in keys if table and key in table.rows}

    async def drop(self, name: str, generation: int) -> None:
        self._tables.pop((name, generation), None)


class _MemorySnapshot:
    def __init__(self, tables: _Tables) -> None:
        self._tables = tables

    async def get(self, model: ReadModel, key: str) -> Any | None:
        known = prepared(self._tables, model).rows.get(key)
        return known and known.row

    async def find(self, model: ReadModel, filters: Mapping[str, Any], **options: Unpack[FindOptions]) -> FindPage:
        table = prepared(self._tables, model)
        access = check_access(model, table.columns, filters, **options)

        async def fetch(count: int) -> list[str]:
            return _matching_keys(table, access)[:count]

        return await find_page(access, fetch, lambda key: (key, table.rows[key].row))

    async def progress(self, model: ReadModel) -> Progress:
        return progress_of(prepared(self._tables, model).partitions)

    async def is_parked(self, model: ReadModel, key: str) -> bool:
        return key in prepared(self._tables, model).parked

    def native(self, model: ReadModel) -> Native:
        return Native({key: known.row for key, known in prepared(self._tables, model).rows.items()}, model.name)


def _matching_keys(table: _MemoryTable, access: Access) -> list[str]:
    """The keys of all rows that match, in order, behind the cursor."""
    filters = [(table.columns[field], value) for field, value in zip(access.group, access.values, strict=True)]
    sort_keys = sorted(
        (
            _sort_key(access.order_value(known.row), key)
            for key, known in table.rows.items()
            if all(column.of(known.row) == value for column, value in filters)
        ),
        reverse=access.descending,
    )
    if access.after is not None:
        last = _sort_key(*access.after)
        sort_keys = [sort_key for sort_key in sort_keys if (sort_key < last if access.descending else sort_key > last)]
    return [key for *_, key in sort_keys]


def _sort_key(value: ColumnValue, key: str) -> _SortKey:
    return (value is not None, value, key)


def _raw_row(table: _MemoryTable, key: str) -> RawRow:
    known = table.rows[key]
    try:
        text = msgspec.json.encode(known.row)
    except (TypeError, ValueError) as error:
        return RawRow(None, known.position, known.repair, f"The row cannot be written as JSON: {error}.")
    return raw_row(table.reader.read(text), known.position, known.repair, {})


def _put(into: dict[str, Any], key: str, value: Any | None) -> None:
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value

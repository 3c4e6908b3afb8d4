"""Read models in memory: for tests, and the shortest explanation of what a read store does."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from twofold.errors import Conflict, WiringError
from twofold.read_store.access import Access, check_access
from twofold.read_store.columns import Column, ColumnValue, columns_of
from twofold.read_store.corruption import RawRowReader, raw_row
from twofold.read_store.partition import Partition, same_slots, shares
from twofold.read_store.port import (
    Change,
    Checkpoint,
    FindPage,
    Native,
    Parked,
    Progress,
    RawRow,
    ReadModel,
    VersionedRow,
)
from twofold.world import RealWorld

_Order = tuple[bool, ColumnValue, str]


class _At(msgspec.Struct, frozen=True):
    """Where a partition stands."""

    position: int = 0
    log: str = ""
    updated: int = 0
    epoch: int = 0


class _Model:
    """What is kept of one read model. Once a snapshot has seen it, a save changes a copy instead."""

    def __init__(self, columns: dict[str, Column], reader: RawRowReader, at: Mapping[Partition, _At]) -> None:
        self.columns = columns
        self.reader = reader
        self.rows: dict[str, VersionedRow] = {}
        self.parked: dict[str, Parked] = {}
        self.at = dict(at)
        self.seen = False

    def changeable(self) -> "_Model":
        if not self.seen:
            return self
        copy = _Model(self.columns, self.reader, self.at)
        copy.rows, copy.parked = dict(self.rows), dict(self.parked)
        return copy

    def progress(self) -> Progress:
        lowest = min(self.at.values(), key=lambda at: at.position)
        updated = max(at.updated for at in self.at.values())
        return Progress(lowest.position, lowest.log, updated, tuple(self.parked[key] for key in sorted(self.parked)))


_Models = dict[tuple[str, int], _Model]


class MemoryReadStore:
    """A read store that forgets everything when the process ends."""

    def __init__(self) -> None:
        self.identity = RealWorld().new_id()
        self._models: _Models = {}

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            new = _Model({}, RawRowReader({}, model), {partition: _At() for partition in shares(model.partitions)})
            kept = self._models.setdefault((model.name, model.generation), new).changeable()
            kept.columns, kept.reader = columns_of(model), RawRowReader({}, model)
            self._models[model.name, model.generation] = kept

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, VersionedRow]:
        rows = _of(self._models, model).rows
        return {key: rows[key] for key in keys if key in rows}

    async def save(self, change: Change) -> None:
        kept = _of(self._models, change.model)
        at = kept.at.get(change.partition)
        if at is None:
            raise Conflict(f"Read model '{change.model.name}' has no partition {change.partition.name} any more.")
        if at.position != change.before or at.log not in ("", change.expected) or at.epoch > change.epoch:
            raise Conflict(f"Read model '{change.model.name}' is at {at.position}, not at {change.before}.")
        for new in change.rows.values():
            for column in kept.columns.values() if new.row is not None else ():
                column.value(column.get(new.row))
        kept = kept.changeable()
        for key, new in change.rows.items():
            known = kept.rows.get(key)
            if known is None or (new.repair, new.position) > (known.repair, known.position):
                _put(kept.rows, key, None if new.row is None else VersionedRow(new.row, new.position, new.repair))
        for key, parked in change.parked.items():
            _put(kept.parked, key, parked)
        kept.at[change.partition] = _At(change.position, change.log, change.now, change.epoch)
        self._models[change.model.name, change.model.generation] = kept

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator["_MemorySnapshot"]:
        for kept in self._models.values():
            kept.seen = True
        yield _MemorySnapshot(dict(self._models))

    async def checkpoints(self) -> list[Checkpoint]:
        found: list[Checkpoint] = []
        for (name, generation), kept in sorted(self._models.items()):
            for partition, at in sorted(kept.at.items()):
                parked = tuple(kept.parked[key] for key in sorted(kept.parked) if partition.holds(key))
                progress = Progress(at.position, at.log, at.updated, parked)
                found.append(Checkpoint(name, generation, progress, partition, at.epoch))
        return found

    async def close(self) -> None:
        return None

    async def repartition(self, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]) -> None:
        kept = _of(self._models, model).changeable()
        stand = {(kept.at[each].position, kept.at[each].log) if each in kept.at else None for each in old}
        if len(stand) != 1 or None in stand or not same_slots(old, new):
            raise Conflict(f"The partitions of read model '{model.name}' have changed, or stand at several positions.")
        merged = [kept.at.pop(each) for each in old]
        at = msgspec.structs.replace(merged[0], epoch=max(each.epoch for each in merged))
        kept.at |= {each: at for each in new}
        self._models[model.name, model.generation] = kept

    async def raw_rows(self, name: str, generation: int, after: str, limit: int) -> list[tuple[str, RawRow]]:
        kept = self._models.get((name, generation))
        keys = sorted(key for key in kept.rows if key > after)[:limit] if kept else []
        return [(key, _stored(kept, key)) for key in keys if kept]

    async def inspect(self, model: ReadModel, keys: Sequence[str]) -> dict[str, RawRow]:
        kept = self._models.get((model.name, model.generation))
        return {key: _stored(kept, key) for key in keys if kept and key in kept.rows}

    async def drop(self, name: str, generation: int) -> None:
        self._models.pop((name, generation), None)


class _MemorySnapshot:
    def __init__(self, models: _Models) -> None:
        self._models = models

    async def get(self, model: ReadModel, key: str) -> Any | None:
        kept = _of(self._models, model).rows.get(key)
        return kept and kept.row

    async def find(
        self,
        model: ReadModel,
        filters: Mapping[str, Any],
        *,
        order_by: str | None = None,
        descending: bool = False,
        limit: int,
        cursor: str | None = None,
    ) -> FindPage:
        kept = _of(self._models, model)
        access = check_access(model, kept.columns, filters, order_by, descending, limit, cursor)
        if access.matches_nothing:
            return FindPage([], None)
        ordered = sorted(_matching(kept, access), reverse=descending)
        if access.after is not None:
            behind = _place(*access.after)
            ordered = [each for each in ordered if (each < behind if descending else each > behind)]
        page = ordered[:limit]
        more = len(ordered) > limit
        return FindPage([(key, kept.rows[key].row) for *_, key in page], access.cursor(*page[-1][1:]) if more else None)

    async def progress(self, model: ReadModel) -> Progress:
        return _of(self._models, model).progress()

    def native(self, model: ReadModel) -> Native:
        return Native({key: kept.row for key, kept in _of(self._models, model).rows.items()}, model.name)


def _matching(kept: _Model, access: Access) -> list[_Order]:
    """The places in the order of all rows that match."""
    filters = [(kept.columns[field], value) for field, value in zip(access.group, access.values, strict=True)]
    order = kept.columns[access.order] if access.order else None
    rows = {key: each.row for key, each in kept.rows.items()}
    return [
        _place(order.value(order.get(row)) if order else None, key)
        for key, row in rows.items()
        if all(column.value(column.get(row)) == value for column, value in filters)
    ]


def _place(value: ColumnValue, key: str) -> _Order:
    return (value is not None, value, key)


def _stored(model: _Model, key: str) -> RawRow:
    kept = model.rows[key]
    try:
        text = msgspec.json.encode(kept.row)
    except (TypeError, ValueError) as error:
        return RawRow(None, kept.position, kept.repair, f"The row cannot be written as JSON: {error}.")
    return raw_row(model.reader.read(text), kept.position, kept.repair, {})


def _put(into: dict[str, Any], key: str, value: Any | None) -> None:
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value


def _of(models: _Models, model: ReadModel) -> _Model:
    try:
        return models[model.name, model.generation]
    except KeyError as error:
        raise WiringError(f"Read model '{model.name}' generation {model.generation} was never prepared.") from error

"""Read models in memory: for tests, and the shortest explanation of what a read store does."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from twofold.errors import Conflict, WiringError
from twofold.read_store.access import Access, check_access
from twofold.read_store.columns import Column, ColumnValue, columns_of
from twofold.read_store.port import Change, Checkpoint, Found, Parked, Progress, ReadModel

_Order = tuple[bool, ColumnValue, str]


class _Kept:
    """What is kept of one read model. Once a snapshot has seen it, a save changes a copy instead."""

    def __init__(self, columns: dict[str, Column]) -> None:
        self.columns = columns
        self.rows: dict[str, Any] = {}
        self.parked: dict[str, Parked] = {}
        self.progress = Progress(0, "", 0)
        self.seen = False

    def changeable(self) -> "_Kept":
        if not self.seen:
            return self
        copy = _Kept(self.columns)
        copy.rows, copy.parked, copy.progress = dict(self.rows), dict(self.parked), self.progress
        return copy


_Models = dict[tuple[str, int], _Kept]


class MemoryReadStore:
    """A read store that forgets everything when the process ends."""

    def __init__(self) -> None:
        self._models: _Models = {}

    async def prepare(self, models: Sequence[ReadModel]) -> None:
        for model in models:
            kept = self._models.setdefault((model.name, model.generation), _Kept({})).changeable()
            kept.columns = columns_of(model)
            self._models[model.name, model.generation] = kept

    async def load(self, model: ReadModel, keys: Sequence[str]) -> dict[str, Any]:
        rows = _kept(self._models, model).rows
        return {key: rows[key] for key in keys if key in rows}

    async def save(self, change: Change) -> None:
        kept = _kept(self._models, change.model)
        if kept.progress.position != change.before or kept.progress.log not in ("", change.expected):
            raise Conflict(f"Read model '{change.model.name}' is at {kept.progress.position}, not at {change.before}.")
        for row in change.rows.values():
            for column in kept.columns.values() if row is not None else ():
                column.value(column.get(row))
        kept = kept.changeable()
        _put(kept.rows, change.rows)
        _put(kept.parked, change.parked)
        parked = tuple(kept.parked[key] for key in sorted(kept.parked))
        kept.progress = Progress(change.position, change.log, change.now, parked)
        self._models[change.model.name, change.model.generation] = kept

    @asynccontextmanager
    async def snapshot(self) -> AsyncGenerator["_MemorySnapshot"]:
        for kept in self._models.values():
            kept.seen = True
        yield _MemorySnapshot(dict(self._models))

    async def checkpoints(self) -> list[Checkpoint]:
        return [Checkpoint(*each, self._models[each].progress) for each in sorted(self._models)]

    async def close(self) -> None:
        return None


class _MemorySnapshot:
    def __init__(self, models: _Models) -> None:
        self._models = models

    async def get(self, model: ReadModel, key: str) -> Any | None:
        return _kept(self._models, model).rows.get(key)

    async def find(
        self,
        model: ReadModel,
        filters: Mapping[str, Any],
        *,
        order_by: str | None = None,
        descending: bool = False,
        limit: int,
        cursor: str | None = None,
    ) -> Found:
        kept = _kept(self._models, model)
        access = check_access(model, kept.columns, filters, order_by, descending, limit, cursor)
        ordered = sorted(_matching(kept, access), reverse=descending)
        if access.after is not None:
            behind = _place(*access.after)
            ordered = [each for each in ordered if (each < behind if descending else each > behind)]
        page = ordered[:limit]
        more = len(ordered) > limit
        return Found([(key, kept.rows[key]) for *_, key in page], access.cursor(*page[-1][1:]) if more else None)

    async def progress(self, model: ReadModel) -> Progress:
        return _kept(self._models, model).progress


def _matching(kept: _Kept, access: Access) -> list[_Order]:
    """The places in the order of all rows that match."""
    filters = [(kept.columns[field], value) for field, value in zip(access.group, access.values, strict=True)]
    order = kept.columns[access.order] if access.order else None
    return [
        _place(order.value(order.get(row)) if order else None, key)
        for key, row in kept.rows.items()
        if all(column.value(column.get(row)) == value for column, value in filters)
    ]


def _place(value: ColumnValue, key: str) -> _Order:
    return (value is not None, value, key)


def _put(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            into.pop(key, None)
        else:
            into[key] = value


def _kept(models: _Models, model: ReadModel) -> _Kept:
    try:
        return models[model.name, model.generation]
    except KeyError as error:
        raise WiringError(f"Read model '{model.name}' generation {model.generation} was never prepared.") from error

"""Generations made by hand: rows as a follower would have left them, at any position, in any store."""

from collections.abc import Mapping
from typing import Any

import msgspec

from twofold.domain.envelope import Metadata
from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import NewEvent, Position
from twofold.read_store.partition import WHOLE, Partition
from twofold.read_store.port import Change, Parked, ReadModel, ReadStore, VersionedRow
from twofold.write_store.history import UNCHECKED
from twofold.write_store.port import Append, WriteStore


class Total(msgspec.Struct, frozen=True):
    counter: str
    total: int = 0


class Named(msgspec.Struct, frozen=True):
    """The row of a later version: a field less, two more."""

    counter: str
    name: str
    label: str | None = None


async def log_of(write_store: WriteStore, events: int) -> None:
    """Let a log have so many events."""
    by = Metadata(0, "test", "test")
    head = (await write_store.read(NO_EVENTS)).head
    for n in range(head, events):
        await write_store.append([Append(by, (NewEvent(f"e{n}", "counted", 1, ("counter:c",), b"{}"),))])


class Built:
    """One generation of the read model `totals`."""

    def __init__(
        self, write_store: WriteStore, read_store: ReadStore, number: int, row: type = Total, partitions: int = 1
    ) -> None:
        self.model = ReadModel("totals", number, row, partitions=partitions)
        self._write_store = write_store
        self._read_store = read_store
        self._rows: dict[str, Any] = {}

    async def save(
        self,
        at: Position,
        rows: Mapping[str, tuple[Any, Position]] | None = None,
        parked: Mapping[str, Parked | None] | None = None,
        *,
        repair: int = 0,
        partition: Partition = WHOLE,
    ) -> "Built":
        """Bring the checkpoint to `at`, with rows (None: deleted) and the positions of their last events."""
        await self._read_store.prepare([self.model])
        (before,) = [
            each.progress.position
            for each in await self._read_store.checkpoints()
            if (each.generation, each.partition) == (self.model.generation, partition)
        ]
        kept = {
            key: VersionedRow(row, position, repair, (self._rows[key],) if self._rows.get(key) is not None else ())
            for key, (row, position) in (rows or {}).items()
        }
        self._rows |= {key: each.row for key, each in kept.items()}
        stamp = self._write_store.identity.stamp(UNCHECKED)
        change = Change(self.model, stamp, before, at, 0, kept, parked or {}, partition=partition)
        await self._read_store.save(change)
        return self

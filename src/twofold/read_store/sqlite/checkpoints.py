"""Checkpoints and parked keys in a SQLite file."""

from collections.abc import Sequence
from typing import Any

import apsw

from twofold.read_store.partition import Partition, same_slots
from twofold.read_store.port import Change, Checkpoint, Parked, Progress, ReadModel
from twofold.read_store.refusals import checkpoint_moved, partitions_changed
from twofold.read_store.sqlite.schema import has_tables

_ADVANCE = (
    "update checkpoints set position = ?, log = ?, updated = ?, epoch = ?"
    " where model = ? and generation = ? and first = ? and \"end\" = ? and position = ? and log in (?, '')"
    " and epoch <= ?"
)
_CHECKPOINTS = (
    'select model, generation, first, "end", position, log, updated, epoch from checkpoints'
    " order by model, generation, first"
)
_PROGRESS = (
    "select position, log, (select max(updated) from checkpoints where model = ?1 and generation = ?2)"
    " from checkpoints where model = ?1 and generation = ?2 order by position limit 1"
)
_PARKED = (
    "select key, position, error, since, waiting, upto from parked where model = ? and generation = ? order by key"
)
_PARK = "insert or replace into parked values (?, ?, ?, ?, ?, ?, ?, ?)"
_UNPARK = "delete from parked where model = ? and generation = ? and key = ?"
_REMOVE = (
    'delete from checkpoints where model = ? and generation = ? and first = ? and "end" = ?'
    " returning position, log, updated, epoch"
)
_INSERT = "insert into checkpoints values (?, ?, ?, ?, ?, ?, ?, ?)"


def advance(connection: apsw.Connection, change: Change) -> None:
    """Move the checkpoint of a change on. Conflict where it is not as the change expects it."""
    partition = (change.model.name, change.model.generation, change.partition.first, change.partition.end)
    new = (change.position, change.log, change.now, change.epoch)
    connection.execute(_ADVANCE, (*new, *partition, change.before, change.expected, change.epoch))
    if connection.changes() != 1:
        present = progress_of(connection, change.model.name, change.model.generation)
        raise checkpoint_moved(change, present.position, present.log)


def park(connection: apsw.Connection, change: Change) -> None:
    """Write the parked keys of a change."""
    generation = (change.model.name, change.model.generation)
    for key, parked in change.parked.items():
        if parked is None:
            connection.execute(_UNPARK, (*generation, key))
        else:
            values = (key, parked.position, parked.error, parked.since, parked.waiting, parked.upto)
            connection.execute(_PARK, (*generation, *values))


def repartition(
    connection: apsw.Connection, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]
) -> None:
    """See `ReadStoreMaintenance.repartition`."""
    generation = (model.name, model.generation)
    removed: list[Any] = [connection.execute(_REMOVE, (*generation, p.first, p.end)).fetchone() for p in old]
    if None in removed or len({row[:2] for row in removed}) != 1 or not same_slots(old, new):
        raise partitions_changed(model)
    position, log, updated, _ = removed[0]
    epoch = max(row[3] for row in removed)
    connection.executemany(_INSERT, [(*generation, p.first, p.end, log, position, epoch, updated) for p in new])


def progress_of(connection: apsw.Connection, name: str, generation: int) -> Progress:
    """How far one generation has come."""
    row = connection.execute(_PROGRESS, (name, generation)).fetchone()
    if row is None:
        return Progress(0, "", 0)
    position, log, updated = row
    return Progress(position, log, updated, _parked(connection, name, generation))


def all_checkpoints(connection: apsw.Connection) -> list[Checkpoint]:
    """See `ReadStoreRows.checkpoints`."""
    if not has_tables(connection):
        return []
    rows: list[Any] = connection.execute(_CHECKPOINTS).fetchall()
    parked = {row[:2]: _parked(connection, *row[:2]) for row in rows}
    checkpoints: list[Checkpoint] = []
    for name, generation, first, end, position, log, updated, epoch in rows:
        partition = Partition(first, end)
        held = tuple(p for p in parked[name, generation] if partition.holds(p.key))
        checkpoints.append(Checkpoint(name, generation, Progress(position, log, updated, held), partition, epoch))
    return checkpoints


def _parked(connection: apsw.Connection, name: str, generation: int) -> tuple[Parked, ...]:
    return tuple(Parked(*row) for row in connection.execute(_PARKED, (name, generation)))

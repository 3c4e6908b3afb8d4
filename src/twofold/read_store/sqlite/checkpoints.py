"""Checkpoints and parked keys in a SQLite file."""

from collections.abc import Iterable, Sequence
from typing import Any

import apsw
import msgspec

from twofold.read_store.parked_summary import stored_summary, summary_stored
from twofold.read_store.partition import Partition
from twofold.read_store.partition_state import PartitionState, checkpoints_of, conflict, progress_of, repartitioned
from twofold.read_store.port import Change, Checkpoint, Parked, Progress, ReadModel
from twofold.read_store.sqlite.schema import has_tables

_ADVANCE = (
    "update checkpoints set position = ?, log = ?, updated = ?, epoch = ?, parked = coalesce(?, parked)"
    " where model = ? and generation = ? and first = ? and \"end\" = ? and position = ? and log in (?, '')"
    " and epoch <= ?"
)
_GENERATIONS = "select distinct model, generation from checkpoints"
_STATES = (
    'select first, "end", position, log, updated, epoch, parked from checkpoints where model = ? and generation = ?'
)
_PARKED = "select key, position, error, since, waiting, upto from parked where model = ? and generation = ?"
_IS_PARKED = "select 1 from parked where model = ? and generation = ? and key = ?"
_PARKED_KEYS = "select key from parked where model = ? and generation = ?"
_PARK = "insert or replace into parked values (?, ?, ?, ?, ?, ?, ?, ?)"
_UNPARK = "delete from parked where model = ? and generation = ? and key = ?"
_REMOVE = "delete from checkpoints where model = ? and generation = ? and first = ?"
_INSERT = "insert into checkpoints values (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def advance(connection: apsw.Connection, change: Change) -> None:
    """Move the checkpoint of a change on. Conflict where it is not as the change expects it."""
    partition = (change.model.name, change.model.generation, change.partition.first, change.partition.end)
    summary = None if change.summary is None else stored_summary(change.summary)
    new = (change.position, change.stamp, change.now, change.epoch, summary)
    connection.execute(_ADVANCE, (*new, *partition, change.before, change.expected, change.epoch))
    if connection.changes() != 1:
        states = _states(connection, change.model.name, change.model.generation)
        raise conflict(change, states.get(change.partition))


def park(connection: apsw.Connection, change: Change) -> None:
    generation = (change.model.name, change.model.generation)
    for key, parked in change.parked.items():
        if parked is None:
            connection.execute(_UNPARK, (*generation, key))
        else:
            connection.execute(_PARK, (*generation, *msgspec.structs.astuple(parked)))


def repartition(
    connection: apsw.Connection, model: ReadModel, old: Sequence[Partition], new: Sequence[Partition]
) -> None:
    generation = (model.name, model.generation)
    parked = [key for (key,) in connection.execute(_PARKED_KEYS, generation)]
    states = repartitioned(model, _states(connection, *generation), old, new, parked)
    connection.executemany(_REMOVE, [(*generation, p.first) for p in old])
    for partition, state in states.items():
        values = (state.stamp, state.position, state.epoch, state.updated, stored_summary(state.parked))
        connection.execute(_INSERT, (*generation, partition.first, partition.end, *values))


def generation_progress(connection: apsw.Connection, name: str, generation: int) -> Progress:
    return progress_of(_states(connection, name, generation))


def progress(records: Iterable[Sequence[Any]]) -> Progress:
    """The progress of a generation, from the records that `SqliteTable.lookup` selects of its checkpoints."""
    return progress_of(
        {
            Partition(first, end): PartitionState(position, log, updated, 0, summary_stored(parked))
            for first, end, position, log, updated, parked, _ in records
        }
    )


def is_parked(connection: apsw.Connection, name: str, generation: int, key: str) -> bool:
    return connection.execute(_IS_PARKED, (name, generation, key)).fetchone() is not None


def all_checkpoints(connection: apsw.Connection) -> list[Checkpoint]:
    generations: list[Any] = connection.execute(_GENERATIONS).fetchall() if has_tables(connection) else []
    return checkpoints_of((*of, _states(connection, *of), _parked(connection, *of)) for of in generations)


def _states(connection: apsw.Connection, name: str, generation: int) -> dict[Partition, PartitionState]:
    rows = connection.execute(_STATES, (name, generation))
    return {
        Partition(first, end): PartitionState(position, log, updated, epoch, summary_stored(parked))
        for first, end, position, log, updated, epoch, parked in rows
    }


def _parked(connection: apsw.Connection, name: str, generation: int) -> list[Parked]:
    return [Parked(*row) for row in connection.execute(_PARKED, (name, generation))]

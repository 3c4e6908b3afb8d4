"""Checkpoints and parked keys in a SQLite file."""

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from twofold.read_store.partition import Partition
from twofold.read_store.partition_state import PartitionState, checkpoints_of, conflict, merged_state, progress_of
from twofold.read_store.port import Change, Checkpoint, Parked, Progress, ReadModel
from twofold.read_store.sqlite.schema import has_tables

_ADVANCE = (
    "update checkpoints set position = ?, log = ?, updated = ?, epoch = ?"
    " where model = ? and generation = ? and first = ? and \"end\" = ? and position = ? and log in (?, '')"
    " and epoch <= ?"
)
_GENERATIONS = "select distinct model, generation from checkpoints"
_STATES = 'select first, "end", position, log, updated, epoch from checkpoints where model = ? and generation = ?'
_PARKED = "select key, position, error, since, waiting, upto from parked where model = ? and generation = ?"
_PARK = "insert or replace into parked values (?, ?, ?, ?, ?, ?, ?, ?)"
_UNPARK = "delete from parked where model = ? and generation = ? and key = ?"
_REMOVE = "delete from checkpoints where model = ? and generation = ? and first = ?"
_INSERT = "insert into checkpoints values (?, ?, ?, ?, ?, ?, ?, ?)"


def advance(connection: apsw.Connection, change: Change) -> None:
    """Move the checkpoint of a change on. Conflict where it is not as the change expects it."""
    partition = (change.model.name, change.model.generation, change.partition.first, change.partition.end)
    new = (change.position, change.stamp, change.now, change.epoch)
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
    state = merged_state(model, _states(connection, *generation), old, new)
    connection.executemany(_REMOVE, [(*generation, p.first) for p in old])
    values = (state.stamp, state.position, state.epoch, state.updated)
    connection.executemany(_INSERT, [(*generation, p.first, p.end, *values) for p in new])


def generation_progress(connection: apsw.Connection, name: str, generation: int) -> Progress:
    return progress_of(_states(connection, name, generation), _parked(connection, name, generation))


def all_checkpoints(connection: apsw.Connection) -> list[Checkpoint]:
    generations: list[Any] = connection.execute(_GENERATIONS).fetchall() if has_tables(connection) else []
    return checkpoints_of((*of, _states(connection, *of), _parked(connection, *of)) for of in generations)


def _states(connection: apsw.Connection, name: str, generation: int) -> dict[Partition, PartitionState]:
    rows = connection.execute(_STATES, (name, generation))
    return {Partition(first, end): PartitionState(*state) for first, end, *state in rows}


def _parked(connection: apsw.Connection, name: str, generation: int) -> list[Parked]:
    return [Parked(*row) for row in connection.execute(_PARKED, (name, generation))]

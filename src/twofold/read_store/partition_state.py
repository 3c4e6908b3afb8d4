"""How far the partitions of one generation have come, and what follows from it in every read store."""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import TypeVar

import msgspec

from twofold.domain.events import Position
from twofold.errors import Conflict
from twofold.read_store.parked_summary import (
    NOTHING_PARKED,
    ParkedSummary,
    merged_summary,
    summaries_by_partition,
)
from twofold.read_store.partition import Partition, same_slots
from twofold.read_store.port import Change, Checkpoint, Parked, Progress, ReadModel


class PartitionState(msgspec.Struct, frozen=True):
    """The checkpoint of a partition, as it was saved last. Stores keep the stamp of the log's history as `log`.

    `parked` is the summary of the parked keys of the partition.
    """

    position: Position = 0
    stamp: str = msgspec.field(default="", name="log")
    updated: int = 0
    epoch: int = 0
    parked: ParkedSummary = NOTHING_PARKED


S = TypeVar("S", bound=PartitionState)
Partitions = Sequence[Partition]
States = Mapping[Partition, PartitionState]


def progress_of(states: States) -> Progress:
    """The progress of a generation: its lowest checkpoint. 0 where there are no partitions."""
    if len(states) == 1:
        # The usual case, of each query.
        (state,) = states.values()
        return Progress(state.position, state.stamp, state.updated, state.parked)
    lowest = min(states.values(), key=attrgetter("position"), default=PartitionState())
    updated = max((state.updated for state in states.values()), default=0)
    return Progress(lowest.position, lowest.stamp, updated, merged_summary(state.parked for state in states.values()))


def checkpoints_of(generations: Iterable[tuple[str, int, States, Iterable[Parked]]]) -> list[Checkpoint]:
    """See `ReadStoreRows.checkpoints`. Of each generation its name, number, partitions and parked keys."""
    checkpoints: list[Checkpoint] = []
    for name, generation, states, parked in sorted(generations, key=itemgetter(0, 1)):
        ordered = _by_key(parked)
        for partition, state in sorted(states.items()):
            own = tuple(key for key in ordered if partition.holds(key.key))
            progress = Progress(state.position, state.stamp, state.updated, state.parked)
            checkpoints.append(Checkpoint(name, generation, progress, partition, state.epoch, own))
    return checkpoints


def check_expected(change: Change, state: PartitionState | None) -> PartitionState:
    """The state of the partition of a change. Conflict where it is not as the change expects it."""
    if (
        state is None
        or state.position != change.before
        or state.stamp not in ("", change.expected)
        or state.epoch > change.epoch
    ):
        raise conflict(change, state)
    return state


def conflict(change: Change, state: PartitionState | None) -> Conflict:
    """A save whose partition was split or merged, or is at another position, of another log, or under a later lease."""
    name = change.model.name
    if state is None:
        return Conflict(f"Read model '{name}' has no partition {change.partition.name} any more.")
    return Conflict(
        f"Read model '{name}' is at {state.position} of log '{state.stamp}', not at {change.before} of log "
        f"'{change.expected}', or a later epoch than {change.epoch} has saved it."
    )


def changed_state(change: Change, state: PartitionState) -> PartitionState:
    """The state of a partition after a change, before which it was `state`."""
    parked = state.parked if change.summary is None else change.summary
    return PartitionState(change.position, change.stamp, change.now, change.epoch, parked)


def repartitioned(
    model: ReadModel, states: Mapping[Partition, S], old: Partitions, new: Partitions, parked: Iterable[str]
) -> dict[Partition, S]:
    """The states of the `new` partitions, if they can replace the `old` ones: see `ReadStoreMaintenance.repartition`.

    `parked` are the parked keys of the generation.
    """
    replaced = [states[partition] for partition in old if partition in states]
    places = {(state.position, state.stamp) for state in replaced}
    if len(replaced) < len(old) or len(places) != 1 or not same_slots(old, new):
        raise partitions_changed(model)
    merged = msgspec.structs.replace(replaced[0], epoch=max(state.epoch for state in replaced))
    summaries = summaries_by_partition(parked, new)
    return {partition: msgspec.structs.replace(merged, parked=summaries[partition]) for partition in new}


def partitions_changed(model: ReadModel) -> Conflict:
    """A repartition whose old partitions are not there, or differ in position, or hold other keys than the new ones."""
    return Conflict(f"The partitions of read model '{model.name}' have changed, or are at different positions.")


def _by_key(parked: Iterable[Parked]) -> tuple[Parked, ...]:
    return tuple(sorted(parked, key=attrgetter("key")))

"""Work units: the pieces into which nodes divide the following of the log, each under its own lease."""

import msgspec

from twofold.read_store.partition import Partition, partition_named
from twofold.read_store.port import Checkpoint


class WorkUnit(msgspec.Struct, frozen=True, order=True):
    """What one node at a time follows. `kind` is the name of a kind of follower.

    Only a unit that keeps a read model has a generation, and only one that keeps a part of it has a partition.
    """

    kind: str
    name: str
    generation: int | None = None
    partition: Partition | None = None

    @property
    def lease_name(self) -> str:
        """The name of its lease."""
        generation = "" if self.generation is None else self.generation
        return f"{self.kind}:{generation}:{self.partition_name}:{self.name}"

    @property
    def partition_name(self) -> str:
        """The name of its partition; "" if it has none."""
        return "" if self.partition is None else self.partition.name

    def covers(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint of the read store is one of this unit."""
        same = (checkpoint.name, checkpoint.generation) == (self.name, self.generation)
        return same and self.partition in (None, checkpoint.partition)

    def holds(self, key: str) -> bool:
        """Whether this unit deals with a key."""
        return self.partition is None or self.partition.holds(key)

    def precedes(self, other: "WorkUnit") -> bool:
        """Whether the other unit is the next partition of the same generation."""
        if self.partition is None or other.partition is None:
            return False
        same = (self.kind, self.name, self.generation) == (other.kind, other.name, other.generation)
        return same and self.partition.end == other.partition.first


def work_unit_named(lease_name: str) -> WorkUnit:
    """The work unit of a lease, by the name that `WorkUnit.lease_name` gave it. ValueError for anything else."""
    kind, generation, partition, name = lease_name.split(":", 3)
    return WorkUnit(
        kind,
        name,
        int(generation) if generation else None,
        partition_named(partition) if partition else None,
    )

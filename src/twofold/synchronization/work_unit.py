"""In charge of shares: the pieces of following that nodes part among themselves, each under a lease of its own."""

from typing import Literal

import msgspec

from twofold.read_store.partition import WHOLE, Partition, partition_named

Kind = Literal["projection", "policy", "build"]


class WorkUnit(msgspec.Struct, frozen=True, order=True):
    """One partition of a projection's generation, one policy, or the building of one new generation."""

    kind: Kind
    name: str
    generation: int = 0
    partition: Partition = WHOLE

    @property
    def resource(self) -> str:
        """What the lease is kept under."""
        if self.kind == "policy":
            return f"policy:{self.name}"
        if self.kind == "build":
            return f"build:{self.generation}:{self.name}"
        return f"projection:{self.generation}:{self.partition.name}:{self.name}"


def work_unit_named(resource: str) -> WorkUnit:
    """The share `WorkUnit.resource` names. ValueError for anything else."""
    kind, _, rest = resource.partition(":")
    if kind == "policy":
        return WorkUnit("policy", rest)
    generation, _, rest = rest.partition(":")
    if kind == "build":
        return WorkUnit("build", rest, int(generation))
    if kind != "projection":
        raise ValueError(f"'{resource}' is no share.")
    partition, _, name = rest.partition(":")
    return WorkUnit("projection", name, int(generation), partition_named(partition))

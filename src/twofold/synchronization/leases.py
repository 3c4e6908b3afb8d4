"""The leases of this node: which work units it may follow, and the epoch of each."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from twofold.read_store.port import Checkpoint
from twofold.synchronization.cluster_state import ClusterState, ClusterStateStore, Lease, versioned_name
from twofold.synchronization.membership import Membership
from twofold.synchronization.plan import Plan, plan
from twofold.synchronization.work_unit import WorkUnit


class Leases:
    """Claims and releases leases, so that the nodes divide the work units evenly among themselves.

    A lease lasts as long as its owner writes heartbeats. Another node measures that by its own clock, so no two clocks
    are compared. Leases only keep nodes out of each other's way. If two nodes believe to hold one, the epochs in the
    read store make sure that only the later one can save.

    `versions` are those of the followers, by name. With `session` this node claims only units of these names, and only
    if they are free.
    """

    def __init__(
        self,
        cluster: ClusterStateStore,
        membership: Membership,
        versions: Mapping[str, int],
        session: frozenset[str] | None,
    ) -> None:
        self.epochs: dict[WorkUnit, int] = {}
        """The work units of this node, with the epochs of their leases."""
        self._cluster = cluster
        self._membership = membership
        self._versions = versions
        self._session = session

    def owner(self, unit: WorkUnit, state: ClusterState) -> str | None:
        """The node that follows a unit. None if none does, or if that node has expired."""
        owner = state.lease(unit.lease_name).record.owner
        return owner if owner and self._membership.alive(owner) else None

    def refresh(self, units: Sequence[WorkUnit], state: ClusterState) -> list[WorkUnit]:
        """Compare what this node holds with the leases as they are now. Returns the units it has lost."""
        mine = {unit for unit in units if self.owner(unit, state) == self._membership.node}
        lost = [unit for unit in units if unit in self.epochs and unit not in mine]
        for unit in lost:
            del self.epochs[unit]
        # A claim may have been written, although its answer was lost.
        self.epochs |= {unit: state.lease(unit.lease_name).record.epoch for unit in mine - self.epochs.keys()}
        return lost

    def plan(self, units: Sequence[WorkUnit], state: ClusterState) -> Plan:
        """What to claim and what to release, so that each unit goes to a node that can follow it."""
        node = self._membership.node
        owners = {unit: self.owner(unit, state) for unit in units}
        reserved = _reserved(units, owners, state)
        by_nodes: dict[tuple[str, ...], list[WorkUnit]] = {}
        for unit in units:
            if self._session is None or unit.name in self._session:
                code = versioned_name(unit.name, self._versions[unit.name])
                nodes = self._membership.candidates(state, unit, code)
                by_nodes.setdefault(tuple(sorted(nodes)), []).append(unit)
        parts = [plan(these, owners, node, nodes, reserved) for nodes, these in by_nodes.items()]
        gone = self.epochs.keys() - set(units)
        return Plan([u for part in parts for u in part.claim], [*gone, *(u for part in parts for u in part.release)])

    async def claim(
        self, units: Sequence[WorkUnit], state: ClusterState, checkpoints: Sequence[Checkpoint]
    ) -> ClusterState:
        """Claim units. Another node may be first. The cluster state after that."""

        async def claim(unit: WorkUnit) -> None:
            row = state.lease(unit.lease_name)
            epoch = max([row.record.epoch, *(at.epoch for at in checkpoints if unit.covers(at))]) + 1
            lease = Lease(self._membership.node, epoch)
            if await self._cluster.write(self._cluster.lease(unit, lease, row.version)):
                self.epochs[unit] = epoch

        await asyncio.gather(*(claim(unit) for unit in units))
        return await self._cluster.read() if units else state

    async def release(self, units: Iterable[WorkUnit], state: ClusterState) -> None:
        """Give leases back. Their workers must have stopped."""
        for unit in units:
            epoch = self.epochs.pop(unit, 0)
            row = state.lease(unit.lease_name)
            await self._cluster.write(self._cluster.lease(unit, Lease("", max(epoch, row.record.epoch)), row.version))


def _reserved(
    units: Iterable[WorkUnit], owners: Mapping[WorkUnit, str | None], state: ClusterState
) -> dict[WorkUnit, str]:
    """The partitions that are to be merged: the owner of the first gets the second, too."""
    reserved: dict[WorkUnit, str] = {}
    for row in state.requests.values():
        if row.record.what != "merge":
            continue
        for first in units:
            owner = owners[first]
            if (first.name, first.partition_name) == (row.record.name, row.record.key) and owner is not None:
                reserved |= {second: owner for second in units if first.precedes(second)} | {first: owner}
    return reserved

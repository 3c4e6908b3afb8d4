"""The generations of a projection: a new one is built beside the one that serves, switched to, and dropped."""

import asyncio
import math
from collections.abc import Mapping, Sequence

from twofold.errors import Conflict, GenerationChanged, InvalidMessage, Unavailable
from twofold.read_store.port import Checkpoint, ReadStore
from twofold.signal import Signal
from twofold.synchronization.cluster_state import ClusterStateStore, Generation, Generations, OperatorAction, Versioned
from twofold.synchronization.work_unit import work_unit_named
from twofold.world import World
from twofold.write_store.port import RowWrite

_TRIES = 20
_READS = 50
_PAUSE = 0.1
_SEEN_BY_ALL = 2.0
"""Seconds after which every node has read the cluster state."""


class Builds:
    """What operators do to generations. Each is one guarded write of what all nodes read: all of it or nothing.

    The same write puts on record what was done, and which `actor` asked for it. `wake` makes this node update at once.
    """

    def __init__(
        self,
        cluster: ClusterStateStore,
        read_store: ReadStore,
        world: World,
        versions: Mapping[str, int],
        wake: Signal,
    ) -> None:
        self._cluster = cluster
        self._read_store = read_store
        self._world = world
        self._versions = versions
        self._wake = wake

    async def begin(self, names: Sequence[str], *, actor: str | None = None) -> dict[str, int]:
        """Begin a build of each projection, or return the one under way. The number of its generation by name.

        InvalidMessage if one of them cannot be begun. Then none is.
        """
        state = await self._cluster.read()
        for name in names:
            if name in state.pauses:
                raise InvalidMessage(f"'{name}' is paused, and so are its builds. Resume it first.", field="name")
            _refuse_standby(name, state.generations(name).record, self._versions[name])
        numbers = {name: await self._begin(name, actor) for name in names}
        self._wake.fire()
        return numbers

    async def switch(
        self, name: str, *, generation: int | None = None, force: bool = False, actor: str | None = None
    ) -> int:
        """Let the generation that was built serve, and keep the other on standby. The number of the new one.

        InvalidMessage if none is under way, or if it has parked keys that the one that serves does not have, or has
        only at a later event (unless `force`). GenerationChanged if it is not `generation`. Unavailable if it is behind
        the one that serves.
        """
        version = self._versions[name]
        for _ in range(_TRIES):
            row = (await self._cluster.read()).generations(name)
            new, old = row.record.find(version, "building"), row.record.find(version, "serving")
            if new is None or old is None:
                raise InvalidMessage(f"No rebuild of '{name}' is under way. Begin one first.", field="name")
            if generation not in (None, new):
                raise GenerationChanged(
                    f"Generation {new} of '{name}' is under way, not generation {generation}. Compare that one first."
                )
            await self._refuse_worse(name, old, new, force=force)
            outcome = f"Generation {new} serves, {old} is on standby."
            action = self._record("switch", name, actor, outcome, new)
            if await self._exchange(name, row, new, old, action):
                return new
        raise self._contended(name)

    async def switch_back(self, name: str, *, actor: str | None = None) -> int:
        """Let the generation on standby serve again, and keep the other on standby. Its number.

        InvalidMessage if there is none on standby. Unavailable if it is behind the one that serves.
        """
        version = self._versions[name]
        for _ in range(_TRIES):
            row = (await self._cluster.read()).generations(name)
            standby, serving = row.record.find(version, "standby"), row.record.find(version, "serving")
            if standby is None or serving is None:
                raise InvalidMessage(f"No earlier generation of '{name}' is on standby.", field="name")
            await self._refuse_worse(name, serving, standby, force=True)
            outcome = f"Generation {standby} serves again, {serving} is on standby."
            action = self._record("switch-back", name, actor, outcome, standby)
            if await self._exchange(name, row, standby, serving, action):
                return standby
        raise self._contended(name)

    async def drop(self, name: str, *, actor: str | None = None) -> list[int]:
        """Delete every generation of a projection that does not serve, also one that was dropped in part.

        Their numbers. A generation that serves a version of the code that no node follows any more is one of them.
        The nodes have time to notice before its rows are deleted.
        """
        self._wake.fire()
        for _ in range(_TRIES):
            state = await self._cluster.read()
            row, used = state.generations(name), state.versions(name) | {self._versions[name]}
            idle = {
                number: None
                for number, build in row.record.builds.items()
                if build.state != "serving" or build.version not in used
            }
            numbers = ", ".join(map(str, sorted(idle)))
            if not idle or await self._cluster.write(
                self._cluster.generations(name, row.record.with_changes(idle), row.version),
                self._record("drop", name, actor, f"Dropped: generation {numbers}.", max(idle)),
            ):
                break
        else:
            raise self._contended(name)
        # In this order: a build that is begun meanwhile is in the cluster state before it is in the read store.
        stored = {at.generation for at in await self._read_store.checkpoints() if at.name == name}
        known = (await self._cluster.read()).generations(name).record.builds.keys()
        gone = sorted((stored | idle.keys()) - known)
        for number in gone:
            await self._until_released(name, number)
            await self._read_store.drop(name, number)
        await self._remove_leases(name)
        return gone

    async def _begin(self, name: str, actor: str | None) -> int:
        version = self._versions[name]
        for _ in range(_TRIES):
            row = (await self._cluster.read()).generations(name)
            known = row.record.find(version, "building")
            if known is not None:
                return known
            _refuse_standby(name, row.record, version)
            number = row.record.last + 1
            record = row.record.with_changes({number: Generation(version, "building", self._cluster.now())})
            action = self._record("rebuild", name, actor, f"The build of generation {number} has begun.", number)
            if await self._cluster.write(self._cluster.generations(name, record, row.version), action):
                return number
        raise self._contended(name)

    async def _refuse_worse(self, name: str, old: int, new: int, *, force: bool) -> None:
        checkpoints = [at for at in await self._read_store.checkpoints() if at.name == name]
        lag = _lag(
            [at for at in checkpoints if at.generation == old], [at for at in checkpoints if at.generation == new]
        )
        if lag:
            raise Unavailable(f"Generation {new} of '{name}' is {lag} events behind the one that serves.", lag=lag)
        parked = {parked.key: parked.position for at in checkpoints if at.generation == old for parked in at.parked}
        # A row stays as it was before the event it is parked at: parked earlier is an older row.
        then = [parked for at in checkpoints if at.generation == new for parked in at.parked]
        worse = {each.key for each in then if each.position < parked.get(each.key, math.inf)}
        if worse and not force:
            raise InvalidMessage(
                f"Generation {new} of '{name}' has {len(worse)} parked keys that the one that serves does not have, or "
                f"has only at a later event, e.g. '{min(worse)}'. Fix the fold and rebuild, or force the switch.",
                field="force",
            )

    async def _until_released(self, name: str, number: int) -> None:
        """Wait until no node holds a lease of a generation, as long as a live node needs to notice.

        Wait until other processes have read the cluster state, too: they may still answer from it. Those with the role
        `query` have no row in it.
        """
        for n in range(_READS):
            state = await self._cluster.read()
            units = [work_unit_named(lease_name) for lease_name, lease in state.leases.items() if lease.record.owner]
            held = (name, number) in [(unit.name, unit.generation) for unit in units]
            if not held and n * _PAUSE > _SEEN_BY_ALL:
                return
            await self._world.sleep(_PAUSE)

    async def _remove_leases(self, name: str) -> None:
        """Remove the leases of generations that are gone. Their numbers are never used again.

        A node that still holds one releases it at its next update, and so writes it again. The next drop removes that.
        """
        state = await self._cluster.read()
        known = state.generations(name).record.builds
        units = {work_unit_named(lease_name): lease for lease_name, lease in state.leases.items()}
        removals = [
            self._cluster.lease(unit, None, lease.version)
            for unit, lease in units.items()
            if unit.name == name and unit.generation is not None and unit.generation not in known
        ]
        # Each in its own commit: one that has changed meanwhile does not keep the others.
        await asyncio.gather(*(self._cluster.write(removal) for removal in removals))

    async def _exchange(
        self, name: str, row: Versioned[Generations], serves: int, standby: int, action: RowWrite
    ) -> bool:
        """Let one generation serve, and put the other one on standby."""
        builds = row.record.builds
        changed = row.record.with_changes(
            {
                serves: Generation(builds[serves].version, "serving", builds[serves].began),
                standby: Generation(builds[standby].version, "standby", builds[standby].began),
            }
        )
        done = await self._cluster.write(self._cluster.generations(name, changed, row.version), action)
        if done:
            self._wake.fire()
        return done

    def _contended(self, name: str) -> Conflict:
        return Conflict(f"Other requests keep changing the generations of '{name}'. Try again.")

    def _record(self, what: str, name: str, actor: str | None, outcome: str, generation: int) -> RowWrite:
        now = self._cluster.now()
        action = OperatorAction(
            what=what,
            name=name,
            key="",
            actor=actor,
            at=now,
            done=True,
            outcome=outcome,
            generation=generation,
            version=self._versions[name],
        )
        return self._cluster.action(f"{now}-{self._world.new_id()}", action)


def _lag(old: Sequence[Checkpoint], new: Sequence[Checkpoint]) -> int:
    """How many events a generation is behind another one, in the partition where it is most.

    Compared by partition: one that is blocked holds back its own keys only, and must not hide that others are behind.
    """
    pairs = [
        (before.progress.position, after.progress.position)
        for before in old
        for after in new
        if before.partition.first < after.partition.end and after.partition.first < before.partition.end
    ]
    if not new:
        pairs = [(before.progress.position, 0) for before in old]
    return max((before - after for before, after in pairs if after < before), default=0)


def _refuse_standby(name: str, record: Generations, version: int) -> None:
    if record.find(version, "building") is None and record.find(version, "standby") is not None:
        raise InvalidMessage(f"An earlier generation of '{name}' is still on standby. Drop it first.", field="name")

"""The synchronization service: from the log to everything that follows it. The one class that other parts talk to."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from twofold.domain.event_query import NO_EVENTS
from twofold.domain.events import Position
from twofold.errors import Conflict, Unavailable
from twofold.read_store.port import Checkpoint, Parked, ReadModel, ReadStore
from twofold.signal import Signal, wait_for
from twofold.synchronization.builds import Builds
from twofold.synchronization.cluster_state import (
    ClusterState,
    ClusterStateStore,
    Node,
    OperatorAction,
    Pause,
    versioned_name,
)
from twofold.synchronization.follower_kind import FollowerKind, Team, UnitProgress
from twofold.synchronization.leases import Leases
from twofold.synchronization.membership import HEARTBEATS, Membership, Observer
from twofold.synchronization.operator_requests import OperatorRequests, What
from twofold.synchronization.pauses import Pauses
from twofold.synchronization.repartition import Repartition
from twofold.synchronization.stall_detector import StallDetector
from twofold.synchronization.supervisor import Supervisor
from twofold.synchronization.work_unit import WorkUnit
from twofold.synchronization.worker import Worker, WorkerLimits
from twofold.world import World
from twofold.write_store.port import WriteStore

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 1.0
_POLL = 0.05
_SHORTEST_POLL = 0.004
_LOOKED_JUST_NOW = 0.2


class NodeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How this node takes part. With `session` it runs a maintenance session for the followers of these names.

    It follows them as far as no other node does, and takes no part in the division of the work. Unless it `follows`, it
    follows nothing, and only sees what others do.
    """

    lease_seconds: float
    worker: WorkerLimits
    session: frozenset[str] | None = None
    follows: bool = True


class Synchronization:
    """Follows the log on this node, and divides the work with the other nodes.

    It owns the membership of this node, its leases and workers, the requests of operators, the generations of
    projections (`builds`), and the detection of followers that stall. `models` says which generation of each projection
    serves. `moved` fires whenever a follower has come further.
    """

    def __init__(
        self,
        cluster: ClusterStateStore,
        write_store: WriteStore,
        read_store: ReadStore,
        world: World,
        kinds: Sequence[FollowerKind[Any]],
        models: Mapping[str, ReadModel],
        *,
        moved: Signal,
        options: NodeOptions,
    ) -> None:
        versions = {name: version for kind in kinds for name, version in kind.versions.items()}
        self.stalls = StallDetector(world)
        self.state = ClusterState({}, {}, {}, {})
        self.problem: str | None = None
        self.cluster = cluster
        self._write_store = write_store
        self._read_store = read_store
        self._world = world
        self._kinds = {kind.name: kind for kind in kinds}
        self._models = models
        self._moved = moved
        self._follows = options.follows
        self._looked = 0.0
        self.wake = Signal()
        self._pause = min(_LONGEST_PAUSE, options.lease_seconds / HEARTBEATS)
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[dict[str, Position]] | None = None
        follows = tuple(versioned_name(name, version) for name, version in versions.items())
        record = Node(world.place, read_store.identity, options.session is not None, follows)
        member = Membership if options.follows else Observer
        self.membership = member(cluster, world, record, options.lease_seconds, write_store.exclusive, self.wake)
        self.leases = Leases(cluster, self.membership, versions, options.session)

        def make_worker(team: Team) -> Worker:
            return Worker(team, write_store, world, options.worker, moved, self.membership.may_follow)

        self.supervisor = Supervisor(cluster, self.leases, self._kinds, versions, make_worker)
        self.builds = Builds(cluster, read_store, world, {name: versions[name] for name in models}, self.wake)
        self.pauses = Pauses(cluster, write_store, world, versions, self.wake)
        repartition = Repartition(self.supervisor, models, write_store, read_store, world)
        self.requests = OperatorRequests(cluster, self.supervisor, self._kinds, repartition, world, self.wake)

    # ------------------------------------------------------------------------------------------------------ the service

    async def start(self) -> None:
        """Claim what is free and follow it. WiringError if a checkpoint belongs to another log.

        A process that follows nothing also starts while stores are away.
        """
        await self.membership.enter()
        if self._follows:
            await self.update()
        else:
            await self.look()
        self._task = asyncio.create_task(self._run(), name="twofold-synchronization")

    async def stop(self) -> None:
        """Stop the workers, and give the leases back."""
        try:
            await self.requests.stop()
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            await self.membership.stop_heartbeat()
            await self.supervisor.stop()
        # A node without a row owns nothing: its leases are free.
        await self.membership.leave()

    async def log_replaced(self) -> None:
        """Go on with the log that has replaced the one before: other nodes may come to it, or none can."""
        await self.membership.log_replaced(self._write_store.exclusive)

    async def update(self) -> None:
        """Read the cluster state and the checkpoints once, and do what follows from them for this node."""
        if not self._follows:
            await self.look()
            return
        if self.membership.evicted:
            await self.supervisor.stop()
            self.leases.epochs.clear()
            await self.membership.rejoin()
        self.state = await self.cluster.read()
        # First of all: what is paused stops also while the read store is away.
        await self.supervisor.stop_paused(self.state)
        self.membership.observe(self.state)
        await self.membership.remove_expired(self.state)
        for kind in self._kinds.values():
            self.state = await kind.prepare(self.state)
        checkpoints = await self._read_store.checkpoints()
        before = self.state
        self.state = await self.supervisor.update(self.units(checkpoints), before, checkpoints)
        # Requests that came after the checkpoints were read wait for the next update: these may not show yet what is
        # parked.
        self.requests.start_new(before, checkpoints)
        head = (await self._write_store.read(NO_EVENTS)).head
        progress = await self.progress(checkpoints)
        self.observe(head, {unit: each.position for unit, each in progress.items()})

    async def look(self) -> None:
        """See what others do: which generations serve, what is paused, how far followers have come. It writes nothing.

        What is known stays as it is while a store is away.
        """
        try:
            checkpoints, models_away = await self._read_store.checkpoints(), None
        except Unavailable as error:
            checkpoints, models_away = [], error
        # Only now it is known which read store it is.
        try:
            self.state = await self.cluster.read()
            self.membership.observe(self.state)
            for kind in self._kinds.values():
                await kind.look(self.state, checkpoints)
            head = (await self._write_store.read(NO_EVENTS)).head
            progress = await self.progress(checkpoints)
        except Unavailable as error:
            log.info("The write store is away: %s", error)
            for kind in self._kinds.values():
                await kind.look(None, checkpoints)
            return
        if models_away is None:
            self.observe(head, {unit: each.position for unit, each in progress.items()})

    async def look_again(self) -> None:
        """See again what others do, unless that was done a moment ago. Does nothing in a process that follows."""
        now = self._world.monotonic()
        if not self._follows and now - self._looked > _LOOKED_JUST_NOW:
            self._looked = now
            await self.look()

    def observe(self, head: Position, positions: Mapping[WorkUnit, Position]) -> None:
        """Note how far units have come. One that is paused cannot stall."""
        running = {unit: position for unit, position in positions.items() if unit.name not in self.state.pauses}
        self.stalls.observe(head, running)

    async def _run(self) -> None:
        wake = self.wake.next
        while True:
            await self._world.poll(wake, self._pause)
            wake = self.wake.next
            try:
                await self.update()
                self.problem = None
            except (Conflict, Unavailable) as error:
                log.warning("The followers of this node could not be updated: %s", error)
            except (Exception, asyncio.CancelledError) as error:
                me = asyncio.current_task()
                if me is not None and me.cancelling():
                    raise
                # The health report shows it, and the next round tries again.
                log.exception("The followers of this node cannot be updated")
                self.problem = f"The followers of this node cannot be updated: {type(error).__name__}: {error}"
            if not self.membership.may_follow():
                await self.supervisor.stop()

    # --------------------------------------------------------------------------------------------- what is followed

    @property
    def workers(self) -> list[Worker]:
        """The workers of this node."""
        return list(dict.fromkeys(self.supervisor.workers.values()))

    def serves(self, unit: WorkUnit) -> bool:
        """Whether a unit counts for its name: it has no read model, or it is of the generation that serves."""
        return unit.generation is None or self._models[unit.name].generation == unit.generation

    def owner(self, unit: WorkUnit) -> str | None:
        """The name of the node that follows a unit, if one does."""
        owner = self.leases.owner(unit, self.state)
        return None if owner is None else self.membership.display_name(owner, self.state)

    def pause_of(self, name: str) -> Pause | None:
        """The pause of a projection or policy, as far as this node knows; None if it is not paused."""
        row = self.state.pauses.get(name)
        return None if row is None else row.record

    def paused_because(self, name: str) -> str | None:
        """Why a projection or policy is paused, in a sentence; None if it is not."""
        pause = self.pause_of(name)
        return None if pause is None else pause.sentence

    async def progress(self, checkpoints: Sequence[Checkpoint], *, log: bool = True) -> dict[WorkUnit, UnitProgress]:
        """How far each work unit has come, on this node or another, by what the stores hold.

        Without `log` those are left out whose checkpoints are in the log.
        """
        units = [unit for unit in self.units(checkpoints) if log or unit.generation is not None]
        progress: dict[WorkUnit, UnitProgress] = {}
        for kind in self._kinds.values():
            mine = [unit for unit in units if unit.kind == kind.name]
            progress |= await kind.progress(mine, checkpoints) if mine else {}
        for unit, worker in self.supervisor.workers.items():
            if unit.generation is None and unit in progress:
                # The follower also knows which due commands cannot be sent.
                progress[unit] = progress[unit]._replace(parked=await worker.run_of(unit, "").follower.parked())
        return progress

    async def parked(self, name: str) -> list[Parked]:
        """All that a policy, or the generation of a projection that serves, has parked."""
        progress = await self.progress(await self._read_store.checkpoints())
        return [
            key for unit, each in progress.items() if unit.name == name and self.serves(unit) for key in each.parked
        ]

    async def late(self, names: Iterable[str], position: Position, timeout: float) -> dict[str, Position]:
        """Wait until the followers of these names have come to `position`, at most `timeout` seconds.

        Those that have not, with their positions.
        """
        followers = list(names)
        deadline = self._world.monotonic() + timeout
        pause = _SHORTEST_POLL
        while True:
            moved = self._moved.next
            try:
                positions = await self._positions()
            except Unavailable:
                # Of a process that follows nothing, the read store may not be there yet.
                if self._follows or self._world.monotonic() >= deadline:
                    raise
                positions = {}
            late = {name: at for name in followers if (at := positions.get(name, 0)) < position}
            left = deadline - self._world.monotonic()
            # What is paused does not come further by waiting.
            if left <= 0 or all(self.pause_of(name) is not None for name in late):
                return late
            # Followers of other processes set no signal here. Most are a few milliseconds behind.
            await wait_for(moved, min(left, pause), self._world)
            pause = min(2 * pause, _POLL)

    async def _positions(self) -> dict[str, Position]:
        """The position of each follower, by one read for all tasks that ask while it lasts."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_positions(), name="twofold-positions")
            # If all that asked have gone, its error is of no interest.
            self._reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())
        return await asyncio.shield(self._reading)

    async def _read_positions(self) -> dict[str, Position]:
        positions: dict[str, Position] = {}
        for unit, progress in (await self.progress(await self._read_store.checkpoints())).items():
            if self.serves(unit):
                positions[unit.name] = min(progress.position, positions.get(unit.name, progress.position))
        return positions

    def units(self, checkpoints: Sequence[Checkpoint]) -> list[WorkUnit]:
        """Everything there is to follow, on this node or another."""
        return [unit for kind in self._kinds.values() for unit in kind.units(self.state, checkpoints)]

    # ------------------------------------------------------------------------------------------------------ operators

    async def request(
        self,
        what: What,
        name: str,
        key: str,
        actor: str | None,
        timeout: float,
        *,
        position: Position | None = None,
    ) -> OperatorAction:
        """Let the node that follows do something for an operator, and wait for the record."""
        return await self.requests.send(what, name, key, actor, timeout, position=position)

    async def pause_follower(self, name: str, reason: str, actor: str | None, timeout: float) -> OperatorAction:
        """Pause a projection or policy on all nodes, and wait until this node does not run it. The record.

        Other nodes stop it at their next update.
        """
        action = await self.pauses.pause(name, reason, actor)

        def stopped() -> bool:
            return name in self.state.pauses and all(unit.name != name for unit in self.supervisor.workers)

        await self._until(stopped, timeout)
        return action

    async def resume_follower(
        self, name: str, skip: Position | None, actor: str | None, timeout: float
    ) -> OperatorAction:
        """Let a projection or policy go on, and wait until this node knows that. The record."""
        action = await self.pauses.resume(name, skip, actor)
        await self._until(lambda: name not in self.state.pauses, timeout)
        return action

    async def _until(self, holds: Callable[[], bool], timeout: float) -> None:
        """Wait until something holds, at most `timeout` seconds."""
        deadline = self._world.monotonic() + timeout
        while not holds() and self._world.monotonic() < deadline:
            await self._world.sleep(_POLL)

    async def actions(self) -> dict[str, OperatorAction]:
        """The records of operators' requests, by the id of the request, the oldest first."""
        return await self.cluster.actions()

    async def partitions(self, name: str) -> list[str]:
        """The partitions of the generation of a projection that serves."""
        generation = self._models[name].generation
        checkpoints = await self._read_store.checkpoints()
        return [at.partition.name for at in checkpoints if (at.name, at.generation) == (name, generation)]

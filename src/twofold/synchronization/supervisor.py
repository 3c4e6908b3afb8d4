"""The workers of this node: one is started for each work unit that the node holds, and stopped with its lease."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from twofold.read_store.port import Checkpoint
from twofold.synchronization.cluster_state import ClusterState, ClusterStateStore, skipped_events
from twofold.synchronization.follower import Skips
from twofold.synchronization.follower_kind import FollowerKind, Team
from twofold.synchronization.leases import Leases
from twofold.synchronization.work_unit import WorkUnit
from twofold.synchronization.worker import Worker

log = logging.getLogger(__name__)


class Supervisor:
    """Runs followers on this node, as the leases say. `make_worker` makes a worker for a team of followers."""

    def __init__(
        self,
        cluster: ClusterStateStore,
        leases: Leases,
        kinds: Mapping[str, FollowerKind[Any]],
        versions: Mapping[str, int],
        make_worker: Callable[[Team], Worker],
    ) -> None:
        self.workers: dict[WorkUnit, Worker] = {}
        self._cluster = cluster
        self._leases = leases
        self._kinds = kinds
        self._versions = versions
        self._make_worker = make_worker
        self._held_back: set[WorkUnit] = set()
        self._skips_seen = 0

    async def update(
        self, units: Sequence[WorkUnit], state: ClusterState, checkpoints: Sequence[Checkpoint]
    ) -> ClusterState:
        """Follow what this node should follow by this state of the cluster. The state after that."""
        await self.stop(self._leases.refresh(units, state))
        await self._stop_ended()
        plan = self._leases.plan(units, state)
        await self.stop(plan.release)
        await self._leases.release(plan.release, state)
        state = await self._leases.claim(plan.claim, state, checkpoints)
        mine = [
            unit
            for unit in units
            if unit in self._leases.epochs and unit not in self._held_back and unit.name not in state.pauses
        ]
        await self._start(mine, checkpoints)
        if state.skips != self._skips_seen:
            skips = await self._skips()
            for worker in self.workers.values():
                worker.add_skips(skips)
            self._skips_seen = state.skips
        return state

    async def stop_paused(self, state: ClusterState) -> None:
        """Stop the workers of what is paused, and those whose follower has paused itself. Their leases stay."""
        await self.stop([unit for unit, worker in self.workers.items() if unit.name in state.pauses or worker.paused])

    @asynccontextmanager
    async def held_back(self, *units: WorkUnit) -> AsyncGenerator[list[Worker]]:
        """The workers of these units, stopped. They are not started again before the context ends."""
        workers = [self.workers[unit] for unit in units]
        self._held_back.update(units)
        try:
            await self.stop(units)
            yield workers
        finally:
            self._held_back.difference_update(units)

    async def stop(self, units: Iterable[WorkUnit] | None = None) -> None:
        """Stop the workers of these units, or all workers. A worker that several units share is stopped for all."""
        which = self.workers if units is None else units
        stopping = dict.fromkeys(self.workers[unit] for unit in which if unit in self.workers)
        for worker in stopping:
            for unit in [unit for unit, other in self.workers.items() if other is worker]:
                del self.workers[unit]
            await worker.stop()

    async def _start(self, units: Sequence[WorkUnit], checkpoints: Sequence[Checkpoint]) -> None:
        """Start the workers that are missing. A worker for a whole kind is started again when its units change."""
        groups: list[list[WorkUnit]] = []
        for kind in self._kinds.values():
            mine = sorted(unit for unit in units if unit.kind == kind.name)
            if not kind.one_worker:
                groups += [[unit] for unit in mine if unit not in self.workers]
            elif set(mine) != (running := {unit for unit in self.workers if unit.kind == kind.name}):
                await self.stop(running)
                groups += [mine] if mine else []
        if not groups:
            return
        skips, failed = await self._skips(), None
        for group in groups:
            leases = {unit: self._leases.epochs[unit] for unit in group}
            worker = self._make_worker(self._kinds[group[0].kind].team(leases, checkpoints, skips))
            self.workers |= dict.fromkeys(group, worker)
            try:
                await worker.start()
            except BaseException as error:
                # The next update tries again. The others are started all the same; the caller gets the error then.
                await self.stop(group)
                if not isinstance(error, Exception):
                    raise
                failed = failed or error
        if failed is not None:
            raise failed

    async def _stop_ended(self) -> None:
        """Remove workers that ended without being stopped, so that others are started in their place."""
        for unit in [unit for unit, worker in self.workers.items() if worker.ended]:
            log.error("The worker of %s ended without being stopped. Another one is started.", unit.lease_name)
            await self.stop([unit])

    async def _skips(self) -> dict[str, Skips]:
        """The events that operators skipped, by projection, for the version that this node follows."""
        actions = list((await self._cluster.actions()).values())
        read_store = self._cluster.read_store
        return {name: skipped_events(actions, name, version, read_store) for name, version in self._versions.items()}

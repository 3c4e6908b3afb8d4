"""What operators ask of followers: written as a request, done by the node that follows, and put on record."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from twofold.domain.events import Position
from twofold.errors import Conflict, InvalidMessage, Refused, Unavailable
from twofold.read_store.port import Checkpoint
from twofold.signal import Signal
from twofold.synchronization.cluster_state import ClusterState, ClusterStateStore, OperatorAction, Request
from twofold.synchronization.follower import error_text, not_parked
from twofold.synchronization.follower_kind import FollowerKind
from twofold.synchronization.repartition import REPARTITIONS, Repartition, is_meant
from twofold.synchronization.supervisor import Supervisor
from twofold.synchronization.work_unit import WorkUnit
from twofold.synchronization.worker import unless_stopped
from twofold.world import World

log = logging.getLogger(__name__)

_POLL = 0.05

What = Literal["retry", "skip", "repair", "split", "merge"]


class OperatorRequests:
    """Sends requests to the node that follows, and does the requests that are about what this node follows.

    A request is done again until it is on record as done. `wake` makes this node update at once.
    """

    def __init__(
        self,
        cluster: ClusterStateStore,
        supervisor: Supervisor,
        kinds: Mapping[str, FollowerKind[Any]],
        repartition: Repartition,
        world: World,
        wake: Signal,
    ) -> None:
        self._cluster = cluster
        self._supervisor = supervisor
        self._kinds = kinds
        self._repartition = repartition
        self._world = world
        self._wake = wake
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def send(
        self,
        what: What,
        name: str,
        key: str,
        actor: str | None,
        timeout: float,
        *,
        position: Position | None = None,
    ) -> OperatorAction:
        """Write a request, and wait for its record. Unavailable if it does not come within `timeout` seconds.

        The request is withdrawn then: it is not done later. InvalidMessage if the follower is paused: no node runs it.
        A skip with a `position` is refused where the key is parked at another one.
        """
        if name in (await self._cluster.read()).pauses:
            raise InvalidMessage(f"'{name}' is paused. Resume it first, then {what}.", field="name")
        now = self._cluster.now()
        request_id = f"{now}-{self._world.new_id()}"
        version = self._version(name)
        request = Request(
            what, name, key, actor, now, self._cluster.read_store if version else "", version, position=position
        )
        if not await self._cluster.write(self._cluster.request(request_id, request, 0)):
            raise Unavailable("Another request has the id of this one. Try again.")
        self._wake.fire()
        deadline = self._world.monotonic() + timeout
        while True:
            action = (await self._cluster.actions([request_id])).get(request_id)
            if action is not None:
                return action
            if self._world.monotonic() >= deadline:
                row = (await self._cluster.read()).requests.get(request_id)
                if row is not None:
                    await self._cluster.write(self._cluster.request(request_id, None, row.version))
                raise Unavailable(f"No node that follows '{name}' answered within {timeout:g} s. Try again.")
            await self._world.sleep(_POLL)

    def start_new(self, state: ClusterState, checkpoints: Sequence[Checkpoint]) -> None:
        """Begin with the requests that are new and about what this node follows."""
        self._under_way = {request_id: task for request_id, task in self._under_way.items() if not task.done()}
        for request_id, row in state.requests.items():
            unit = self._unit(row.record, state, checkpoints)
            if unit is not None and request_id not in self._under_way:
                work = self._handle(request_id, row.record, row.version, unit)
                self._under_way[request_id] = asyncio.create_task(work, name=f"twofold-request-{request_id}")

    async def stop(self) -> None:
        """Leave what is under way to the node that follows next."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def _version(self, name: str) -> int:
        """The version of a projection; 0 for a follower without a read model."""
        return next((kind.versions[name] for kind in self._kinds.values() if name in kind.versions), 0)

    def _unit(self, request: Request, state: ClusterState, checkpoints: Sequence[Checkpoint]) -> WorkUnit | None:
        """The unit of this node that a request is about, if there is one."""
        generation = _generation(state, request, checkpoints)
        for unit in self._supervisor.workers:
            if unit.name != request.name:
                continue
            if unit.generation is None:
                return unit
            # Nodes with other code may run beside this one, and the request may be about their version.
            if (request.version, unit.generation) != (self._version(unit.name), generation):
                continue
            if request.what not in REPARTITIONS:
                if unit.holds(request.key):
                    return unit
            elif unit.partition is not None and is_meant(unit.partition, request):
                return unit
        return None

    async def _handle(self, request_id: str, request: Request, seen: int, unit: WorkUnit) -> None:
        try:
            action = await self._action(request_id, request, seen, unit)
            if action is None:
                return
            record = self._cluster.action(request_id, action)
            if not await self._cluster.write(record, self._cluster.request(request_id, None, seen)):
                # The request was withdrawn meanwhile, but it is done.
                await self._cluster.write(record)
        except (Conflict, Unavailable) as error:
            log.info("%s of '%s' is tried again: %s", request.what, request.name, error)

    async def _action(self, request_id: str, request: Request, seen: int, unit: WorkUnit) -> OperatorAction | None:
        try:
            return await self._execute(request_id, request, seen, unit)
        except (Conflict, Unavailable):
            raise
        except Exception as error:
            # A further try would fail, too, and the operator waits for an answer.
            log.exception("%s of '%s' failed", request.what, request.name)
            return self._record(request, unit, False, f"It failed: {error_text(error)}")

    async def _execute(self, request_id: str, request: Request, seen: int, unit: WorkUnit) -> OperatorAction | None:
        """What was done, for the record. None if it is to be tried again, or on record already."""
        worker = self._supervisor.workers.get(unit)
        if worker is None:
            # This node has given the unit up meanwhile. The next owner sees the request.
            return None
        try:
            if request.what == "skip":
                return await self._skip(request_id, request, seen, unit)
            if request.what in REPARTITIONS:
                result = await self._change_partition(request, unit)
                if result is None:
                    return None
                done, outcome = result
            else:
                run = worker.run_of(unit, request.key)
                do = run.follower.retry if request.what == "retry" else run.follower.repair
                answer = await worker.between_pages(lambda: do(request.key, run.position))
                # Pages are read while a reaction is under way.
                done, outcome = True, answer if isinstance(answer, str) else await unless_stopped(answer)
        except (Refused, ValueError) as error:
            done, outcome = False, str(error)
        if done:
            self._wake.fire()
        return self._record(request, unit, done, outcome)

    async def _change_partition(self, request: Request, unit: WorkUnit) -> tuple[bool, str] | None:
        if unit.partition_name != request.key:
            # Another node did it before, and could not put it on record.
            return True, f"It has become {unit.partition_name}."
        if request.what == "merge":
            return await self._repartition.merge(unit)
        return True, await self._repartition.split(unit)

    async def _skip(self, request_id: str, request: Request, seen: int, unit: WorkUnit) -> OperatorAction | None:
        """Skip an event, and put that on record in the same commit: a skip without a record would look like a loss.

        This runs between two pages, so that no retry takes the event meanwhile. The kind of the follower knows how.
        """
        worker = self._supervisor.workers[unit]
        key, run = request.key, worker.run_of(unit, request.key)

        async def skip() -> OperatorAction | None:
            position = run.follower.parked_at(key)
            if position is None:
                outcome = not_parked(request.name, key, await run.follower.parked())
                return self._record(request, unit, False, outcome)
            if request.position not in (None, position):
                outcome = (
                    f"'{key}' is parked at {position} now, not at {request.position}. Nothing is skipped: look at what "
                    "failed there first."
                )
                return self._record(request, unit, False, outcome)
            outcome = f"The event at {position} is skipped." if position else "The command is not sent any more."
            action = self._record(request, unit, True, outcome, position)
            record = [self._cluster.action(request_id, action), self._cluster.request(request_id, None, seen)]
            refusal = await self._kinds[unit.kind].skip(run.follower, key, run.position, record)
            if refusal is not None:
                return self._record(request, unit, False, refusal)
            self._wake.fire()
            return None

        return await worker.between_pages(skip)

    def _record(self, request: Request, unit: WorkUnit, done: bool, outcome: str, position: int = 0) -> OperatorAction:
        return OperatorAction(
            what=request.what,
            name=request.name,
            key=request.key,
            actor=request.actor,
            at=self._cluster.now(),
            done=done,
            outcome=outcome,
            generation=unit.generation or 0,
            version=self._version(unit.name),
            position=position,
            read_store="" if unit.generation is None else self._cluster.read_store,
        )


def _generation(state: ClusterState, request: Request, checkpoints: Sequence[Checkpoint]) -> int:
    """The generation that a request is about: the one that serves, unless the key is parked in another one only."""
    builds = state.generations(request.name).record.builds
    mine = [number for number, build in sorted(builds.items()) if build.version == request.version]
    mine.sort(key=lambda number: builds[number].state != "serving")
    parked = {
        checkpoint.generation
        for checkpoint in checkpoints
        if checkpoint.name == request.name and any(p.key == request.key for p in checkpoint.parked)
    }
    with_key = [number for number in mine if number in parked] if request.what in ("retry", "skip") else []
    return next(iter(with_key or mine), 0)

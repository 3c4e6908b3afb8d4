"""In charge of what this node follows: it claims shares, runs their workers, and gives way to nodes that come."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from twofold.errors import Conflict, Unavailable
from twofold.read_store.port import Checkpoint, ReadModel, ReadStore
from twofold.synchronization.cluster_state import (
    ClusterState,
    ClusterStateStore,
    Generation,
    Lease,
    followed,
    skipped_events,
)
from twofold.synchronization.follower import Skips
from twofold.synchronization.membership import BEATS, Membership
from twofold.synchronization.plan import Plan, plan
from twofold.synchronization.work_unit import WorkUnit
from twofold.synchronization.worker import Worker
from twofold.world import World

log = logging.getLogger(__name__)

_LOOK = 1.0


class Crew(Protocol):
    """Makes what a node runs."""

    def worker(
        self, shares: Mapping[WorkUnit, int], skips: Mapping[str, Skips], held: Callable[[], bool], *, bulk: bool
    ) -> Worker:
        """A worker for shares under the epochs of their leases: one alone, or (`bulk`) the partitions of all builds."""
        ...

    def model(self, name: str, generation: int) -> ReadModel:
        """The read model of a generation."""
        ...


class Supervisor:
    """Runs followers on this node. With others it parts the shares by leases, which a node that falls silent loses.

    A lease lasts as long as its owner's row in the write store keeps changing; whoever wants it measures that by a
    clock of his own, so no two clocks are compared. Leases only keep nodes out of one another's way: that nothing goes
    wrong when two believe to hold one rests on the epochs in the read store. `only` names what a visitor came for.
    """

    def __init__(
        self,
        cluster: ClusterStateStore,
        read_store: ReadStore,
        world: World,
        crew: Crew,
        versions: Mapping[str, int],
        policies: Sequence[str],
        *,
        name: str,
        lease_seconds: float,
        exclusive: bool,
        served: Callable[[str, int], None],
        looked: Callable[[ClusterState, Sequence[Checkpoint]], Awaitable[None]],
        only: frozenset[str] | None = None,
    ) -> None:
        self.workers: dict[WorkUnit, Worker] = {}
        self.board = ClusterState({}, {}, {}, {})
        self.problem: str | None = None
        self._cluster = cluster
        self._read_store = read_store
        self._world = world
        self._crew = crew
        self._versions = versions
        self._policies = policies
        self._pause = min(_LOOK, lease_seconds / BEATS)
        self._served = served
        self._looked = looked
        self._only = only
        self._serving: dict[str, int] = {}
        self._prepared: set[tuple[str, int]] = set()
        self._epochs: dict[WorkUnit, int] = {}
        self._busy: set[WorkUnit] = set()
        self._skips_seen = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.membership = Membership(
            cluster,
            world,
            name=name,
            follows=tuple(followed(each, versions.get(each, 0)) for each in (*versions, *policies)),
            visitor=only is not None,
            lease_seconds=lease_seconds,
            exclusive=exclusive,
            dead=self.wake,
        )

    async def start(self) -> None:
        """Claim what is free and run it. WiringError where a checkpoint belongs to another log."""
        await self.membership.enter()
        await self.look()
        self._task = asyncio.create_task(self._run(), name="twofold-supervisor")

    async def stop(self) -> None:
        """Stop the workers, and tell the other nodes that what they followed for is free."""
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            await self.membership.stop_heartbeat()
            await self._stop(list(self.workers))
        # Without a row of its own a node owns nothing: what it had is free.
        await self.membership.leave()

    def wake(self) -> None:
        """Look at once instead of in a moment."""
        self._wake.set()

    async def look(self) -> None:
        """One look at what all nodes note, and whatever follows from it for this one."""
        membership = self.membership
        if membership.evicted:
            await self._stop(list(self.workers))
            self._epochs.clear()
            await membership.rejoin()
        self.board = await self._cluster.read()
        membership.observe(self.board)
        await membership.remove_expired(self.board)
        await self._serve()
        checkpoints = await self._read_store.checkpoints()
        shares = self.shares(checkpoints)
        owners = {share: self._owner(share) for share in shares}
        lost = [share for share in shares if share in self._epochs and owners[share] != membership.node]
        await self._stop(lost)
        for share in lost:
            del self._epochs[share]
        await self._clear_away()
        # Claimed, and the answer lost on the way.
        won = [share for share in shares if share not in self._epochs and owners[share] == membership.node]
        self._epochs |= {share: self.board.lease(share.resource).record.epoch for share in won}
        todo = self._plan(shares, owners)
        await self._release([*(self._epochs.keys() - set(shares)), *todo.release])
        await self._claim(todo.claim, checkpoints)
        mine = [share for share in shares if share in self._epochs and share not in self._busy]
        await self._run_workers(mine, checkpoints)
        if self.board.skips != self._skips_seen:
            skips = await self._skips()
            for worker in self.workers.values():
                worker.skip(skips)
            self._skips_seen = self.board.skips
        await self._looked(self.board, checkpoints)

    def owner(self, share: WorkUnit) -> str | None:
        """The name of the node that follows for a share, if one does."""
        owner = self._owner(share)
        return None if owner is None else self.membership.display_name(owner, self.board)

    def model(self, share: WorkUnit) -> ReadModel:
        """The read model of a share."""
        return self._crew.model(share.name, share.generation)

    def version(self, name: str) -> int:
        """The version of a projection that this node folds; 0 for a policy."""
        return self._versions.get(name, 0)

    @asynccontextmanager
    async def taken_off(self, *shares: WorkUnit) -> AsyncGenerator[list[Worker]]:
        """The workers of shares, stopped, and not started again before the context ends."""
        workers = [self.workers[share] for share in shares]
        self._busy.update(shares)
        try:
            await self._stop(shares)
            yield workers
        finally:
            self._busy.difference_update(shares)

    # ------------------------------------------------------------------------------------------------- looking after it

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await self._world.within(self._pause, self._wake.wait())
            self._wake.clear()
            try:
                await self.look()
                self.problem = None
            except (Conflict, Unavailable) as error:
                log.warning("What follows the log could not be looked after: %s", error)
            except (Exception, asyncio.CancelledError) as error:
                me = asyncio.current_task()
                if me is not None and me.cancelling():
                    raise
                # Said by health, tried again in a moment: to end here would be to stop without a word.
                log.exception("What follows the log cannot be looked after")
                self.problem = f"What follows the log cannot be looked after: {type(error).__name__}: {error}"
            if not self.membership.held():
                await self._stop(list(self.workers))

    # ------------------------------------------------------------------------------------------ what there is to follow

    async def _serve(self) -> None:
        """See to it that every projection has a generation that serves, and that its place is prepared."""
        for name, version in self._versions.items():
            number = self.board.generations(name).record.find(version, "serving")
            if number is None:
                number = await self._begin(name, version)
            builds = self.board.generations(name).record.builds
            fresh = {n for n, each in builds.items() if each.version == version} - {
                n for known, n in self._prepared if known == name
            }
            for each in sorted(fresh):
                await self._read_store.prepare([self._crew.model(name, each)])
                self._prepared.add((name, each))
            if self._serving.get(name) != number:
                self._serving[name] = number
                self._served(name, number)

    async def _begin(self, name: str, version: int) -> int:
        """A generation for a version that has none yet: it serves from its first event on."""
        while True:
            noted = self.board.generations(name)
            number = noted.record.find(version, "serving")
            if number is not None:
                return number
            number = noted.record.last + 1
            record = noted.record.but({number: Generation(version, "serving", self._cluster.now())})
            await self._cluster.write(self._cluster.generations(name, record, noted.version))
            self.board = await self._cluster.read()

    def shares(self, checkpoints: Sequence[Checkpoint]) -> list[WorkUnit]:
        """Everything there is to follow for, on this node or another, in the generations that were last seen."""
        shares: list[WorkUnit] = []
        for name, version in self._versions.items():
            for number, each in self.board.generations(name).record.builds.items():
                if each.version != version:
                    continue
                if each.state == "building":
                    shares.append(WorkUnit("build", name, number))
                else:
                    shares += [
                        WorkUnit("projection", name, number, at.partition)
                        for at in checkpoints
                        if (at.name, at.generation) == (name, number)
                    ]
        shares += [WorkUnit("policy", name) for name in self._policies]
        return shares

    def _owner(self, share: WorkUnit) -> str | None:
        owner = self.board.lease(share.resource).record.owner
        return owner if owner and self.membership.alive(owner) else None

    def _plan(self, shares: Sequence[WorkUnit], owners: Mapping[WorkUnit, str | None]) -> Plan:
        """Each share goes to one of the nodes that can follow for it, those of the same nodes evenly among them."""
        me, reserved = self.membership.node, self._reserved(shares, owners)
        among: dict[tuple[str, ...], list[WorkUnit]] = {}
        for share in shares:
            if self._only is None or share.name in self._only:
                what = followed(share.name, self.version(share.name))
                nodes = self.membership.nodes(self.board, what, policy=share.kind == "policy")
                among.setdefault(tuple(sorted(nodes)), []).append(share)
        todo = Plan([], [])
        for these, some in among.items():
            part = plan(some, owners, me, these, reserved)
            todo = Plan([*todo.claim, *part.claim], [*todo.release, *part.release])
        return todo

    def _reserved(self, shares: Iterable[WorkUnit], owners: Mapping[WorkUnit, str | None]) -> dict[WorkUnit, str]:
        """Partitions that are to be merged: the second of them goes to whoever has the first."""
        wanted: dict[WorkUnit, str] = {}
        for noted in self.board.requests.values():
            if noted.record.what != "merge":
                continue
            for first in shares:
                owner = owners[first]
                if (first.name, first.partition.name) == (noted.record.name, noted.record.key) and owner is not None:
                    wanted |= {second: owner for second in shares if follows(first, second)} | {first: owner}
        return wanted

    # -------------------------------------------------------------------------------------------------- leases, workers

    async def _claim(self, shares: Sequence[WorkUnit], checkpoints: Sequence[Checkpoint]) -> None:
        async def claim(share: WorkUnit) -> None:
            noted = self.board.lease(share.resource)
            epoch = max([noted.record.epoch, *(at.epoch for at in checkpoints if _is_of(at, share))]) + 1
            if await self._cluster.write(self._cluster.lease(share, Lease(self.membership.node, epoch), noted.version)):
                self._epochs[share] = epoch

        await asyncio.gather(*(claim(share) for share in shares))
        if shares:
            self.board = await self._cluster.read()

    async def _release(self, shares: Sequence[WorkUnit]) -> None:
        await self._stop(shares)
        for share in shares:
            epoch = self._epochs.pop(share, 0)
            noted = self.board.lease(share.resource)
            await self._cluster.write(
                self._cluster.lease(share, Lease("", max(epoch, noted.record.epoch)), noted.version)
            )

    async def _run_workers(self, shares: Sequence[WorkUnit], checkpoints: Sequence[Checkpoint]) -> None:
        """A worker for each share; builds have one together, made anew when there are more or fewer of them."""
        builds = {share for share in shares if share.kind == "build"}
        running = {share for share in self.workers if share.kind == "build"}
        if builds != running:
            await self._stop(running)
        groups = [{share} for share in shares if share.kind != "build" and share not in self.workers]
        if builds - self.workers.keys():
            groups.append(builds)
        if not groups:
            return
        skips, failed = await self._skips(), None
        for group in groups:
            bulk = group == builds
            run = {part: self._epochs[share] for share in sorted(group) for part in _parts(share, checkpoints)}
            worker = self._crew.worker(run, skips, self.membership.held, bulk=bulk)
            self.workers |= dict.fromkeys(group, worker)
            try:
                await worker.start()
            except BaseException as error:
                # Made anew at the next look; whoever starts the app is told. The others need not wait for that.
                await self._stop(group)
                if not isinstance(error, Exception):
                    raise
                failed = failed or error
        if failed is not None:
            raise failed

    async def _clear_away(self) -> None:
        """Let go of workers that ended without being stopped, so that others are made in their place."""
        for share in [share for share, worker in self.workers.items() if worker.ended]:
            log.error("What follows for %s ended without being stopped; it is begun anew.", share.resource)
            await self._stop([share])

    async def _skips(self) -> dict[str, Skips]:
        """What operators have said to pass over, by projection, as far as it was said of the present version."""
        acts = list((await self._cluster.actions()).values())
        return {n: skipped_events(acts, n, version, self._cluster.read_store) for n, version in self._versions.items()}

    async def _stop(self, shares: Iterable[WorkUnit]) -> None:
        stopped: list[Any] = []
        for share in shares:
            worker = self.workers.pop(share, None)
            if worker is not None and worker not in stopped:
                stopped.append(worker)
        for worker in stopped:
            # Builds have one together.
            for share in [share for share, each in self.workers.items() if each is worker]:
                del self.workers[share]
            await worker.stop()


def follows(first: WorkUnit, second: WorkUnit) -> bool:
    """Whether a share is the next partition of the same generation."""
    same = (first.kind, first.name, first.generation) == (second.kind, second.name, second.generation)
    return same and first.kind == "projection" and second.partition.first == first.partition.end


def _parts(share: WorkUnit, checkpoints: Sequence[Checkpoint]) -> list[WorkUnit]:
    """What a follower each is made for: a build is made of the partitions of its generation."""
    if share.kind != "build":
        return [share]
    return [WorkUnit("projection", at.name, at.generation, at.partition) for at in checkpoints if _is_of(at, share)]


def _is_of(at: Checkpoint, share: WorkUnit) -> bool:
    whole = (at.name, at.generation) == (share.name, share.generation)
    return whole and (share.kind == "build" or (share.kind == "projection" and at.partition == share.partition))

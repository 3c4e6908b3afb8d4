"""In charge of what this node follows: it claims shares, runs their workers, and gives way to nodes that come."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

from twofold.domain.events import Position
from twofold.errors import Conflict, TwofoldError, Unavailable
from twofold.read_store.port import Checkpoint, ReadModel, WholeReadStore
from twofold.synchronization import control
from twofold.synchronization.control import Board, Control, Generation, Lease, Node
from twofold.synchronization.plan import plan
from twofold.synchronization.share import Share
from twofold.synchronization.worker import Worker
from twofold.world import World

log = logging.getLogger(__name__)

_LOOK = 1.0
_PARTS_OF_A_LEASE = 4
_LEASES_TO_COME_BACK = 5
_TRUSTED = 2 / 3
"""The part of a lease after which its owner, having shown no sign of life, stops by itself."""

Skips = frozenset[tuple[str, Position]]


class Crew(Protocol):
    """Makes what a node runs."""

    def worker(
        self, shares: Mapping[Share, int], skips: Mapping[str, Skips], held: Callable[[], bool], *, bulk: bool
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
        board: Control,
        views: WholeReadStore,
        world: World,
        crew: Crew,
        versions: Mapping[str, int],
        policies: Sequence[str],
        *,
        name: str,
        lease_seconds: float,
        exclusive: bool,
        served: Callable[[str, int], None],
        looked: Callable[[Board, Sequence[Checkpoint]], Awaitable[None]],
        only: frozenset[str] | None = None,
    ) -> None:
        self.node = world.new_id()
        self.workers: dict[Share, Worker] = {}
        self.board = Board({}, {}, {}, {})
        self.problem: str | None = None
        self._control = board
        self._views = views
        self._world = world
        self._crew = crew
        self._versions = versions
        self._policies = policies
        self._name = name
        self._lease = lease_seconds
        self._exclusive = exclusive
        self._served = served
        self._looked = looked
        self._only = only
        self._serving: dict[str, int] = {}
        self._prepared: set[tuple[str, int]] = set()
        self._epochs: dict[Share, int] = {}
        self._busy: set[Share] = set()
        self._heard: dict[str, tuple[int, float]] = {}
        self._seen = 0
        self._renewed = world.monotonic()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Claim what is free and run it. WiringError where a checkpoint belongs to another log."""
        await self._enter()
        await self.look()
        self._task = asyncio.create_task(self._run(), name="twofold-supervisor")

    async def stop(self) -> None:
        """Stop the workers, and tell the other nodes that what they followed for is free."""
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            await self._stop(list(self.workers))
        if not self._exclusive:
            await self._leave()

    def wake(self) -> None:
        """Look at once instead of in a moment."""
        self._wake.set()

    async def look(self) -> None:
        """One look at what all nodes note, and whatever follows from it for this one."""
        self.board = await self._control.look()
        await self._show_life()
        self._hear()
        await self._bury()
        await self._serve()
        checkpoints = await self._views.checkpoints()
        shares = self.shares(checkpoints)
        owners = {share: self._owner(share) for share in shares}
        lost = [share for share in shares if share in self._epochs and owners[share] != self.node]
        await self._stop(lost)
        for share in lost:
            del self._epochs[share]
        todo = plan(shares, owners, self.node, self._nodes(), self._reserved(shares, owners))
        await self._release([*(self._epochs.keys() - set(shares)), *todo.release])
        await self._claim(todo.claim, checkpoints)
        mine = [share for share in shares if share in self._epochs and share not in self._busy]
        await self._run_workers(mine, checkpoints)
        await self._looked(self.board, checkpoints)

    def owner(self, share: Share) -> str | None:
        """The name of the node that follows for a share, if one does."""
        owner = self._owner(share)
        if owner is None:
            return None
        known = self.board.nodes.get(owner)
        return self._name if owner == self.node else known.record.name if known else owner

    def held(self) -> bool:
        """Whether this node may still believe that its leases are its own."""
        return self._exclusive or self._world.monotonic() - self._renewed < self._lease * _TRUSTED

    def model(self, share: Share) -> ReadModel:
        """The read model of a share."""
        return self._crew.model(share.name, share.generation)

    def version(self, name: str) -> int:
        """The version of a projection that this node folds; 0 for a policy."""
        return self._versions.get(name, 0)

    @asynccontextmanager
    async def taken_off(self, *shares: Share) -> AsyncGenerator[list[Worker]]:
        """The workers of shares, stopped, and not started again before the context ends."""
        workers = [self.workers[share] for share in shares]
        self._busy.update(shares)
        try:
            await self._stop(shares)
            yield workers
        finally:
            self._busy.difference_update(shares)

    # ------------------------------------------------------------------------------------------------------ being there

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                await self._world.within(min(_LOOK, self._lease / _PARTS_OF_A_LEASE), self._wake.wait())
            self._wake.clear()
            try:
                await self.look()
                self.problem = None
            except (Conflict, Unavailable) as error:
                log.warning("What follows the log could not be looked after: %s", error)
            except Exception as error:
                # Said by health, tried again in a moment: to end here would be to stop without a word.
                log.exception("What follows the log cannot be looked after")
                self.problem = f"What follows the log cannot be looked after: {type(error).__name__}: {error}"
            if not self.held():
                await self._stop(list(self.workers))

    async def _enter(self) -> None:
        if not self._exclusive:
            self._seen = 0
            me = Node(self._name, visitor=self._only is not None)
            if not await self._control.write(control.node(self.node, me, 0)):
                raise Unavailable("Another node took this one's id; start again.")
            self._seen = 1
            self._renewed = self._world.monotonic()

    async def _show_life(self) -> None:
        """Change this node's row; where others have taken it for dead, begin anew as another node."""
        began = self._world.monotonic()
        if self._exclusive or began - self._renewed < self._lease / _PARTS_OF_A_LEASE:
            return
        me = Node(self._name, visitor=self._only is not None)
        if await self._control.write(control.node(self.node, me, self._seen)):
            self._seen += 1
            self._renewed = began
            return
        noted = self.board.nodes.get(self.node)
        if noted is not None and noted.version > self._seen:
            # An answer was lost on the way: the row had been written.
            self._seen = noted.version
            return
        log.warning("The other nodes took this one for dead; it begins anew.")
        await self._stop(list(self.workers))
        self._epochs.clear()
        self.node = self._world.new_id()
        await self._enter()
        self.board = await self._control.look()

    async def _leave(self) -> None:
        leases = [(share, self.board.lease(share.resource)) for share in self._epochs]
        writes = [
            control.lease(share.resource, Lease("", noted.record.epoch), noted.version)
            for share, noted in leases
            if noted.record.owner == self.node
        ]
        try:
            await asyncio.gather(*(self._control.write(each) for each in writes))
            await self._control.write(control.node(self.node, None, self._seen))
        except TwofoldError as error:
            log.info("The other nodes were not told that this one leaves; they will notice: %s", error)

    def _hear(self) -> None:
        """Note when each node last showed life, by this node's own clock."""
        now = self._world.monotonic()
        for name, noted in self.board.nodes.items():
            if self._heard.get(name, (0, 0.0))[0] != noted.version:
                self._heard[name] = noted.version, now
        for name in self._heard.keys() - self.board.nodes.keys():
            del self._heard[name]

    async def _bury(self) -> None:
        """Take out the rows of nodes that have been silent for long."""
        long_ago = self._world.monotonic() - self._lease * _LEASES_TO_COME_BACK
        for name, noted in self.board.nodes.items():
            if name != self.node and self._heard[name][1] < long_ago:
                await self._control.write(control.node(name, None, noted.version))

    def _alive(self, name: str) -> bool:
        if name == self.node:
            return True
        heard = self._heard.get(name)
        return not self._exclusive and heard is not None and self._world.monotonic() - heard[1] < self._lease

    def _nodes(self) -> list[str]:
        """The nodes that share everything out among them."""
        others = [n for n, noted in self.board.nodes.items() if n != self.node and not noted.record.visitor]
        mine = [] if self._only is not None else [self.node]
        return [*mine, *(name for name in others if self._alive(name))]

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
                await self._views.prepare([self._crew.model(name, each)])
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
            record = noted.record.but({number: Generation(version, "serving", self._control.now())})
            await self._control.write(control.generations(name, record, noted.version))
            self.board = await self._control.look()

    def shares(self, checkpoints: Sequence[Checkpoint]) -> list[Share]:
        """Everything there is to follow for, on this node or another, in the generations that were last seen."""
        shares: list[Share] = []
        for name, version in self._versions.items():
            for number, each in self.board.generations(name).record.builds.items():
                if each.version != version:
                    continue
                if each.state == "building":
                    shares.append(Share("build", name, number))
                else:
                    shares += [
                        Share("projection", name, number, at.partition)
                        for at in checkpoints
                        if (at.name, at.generation) == (name, number)
                    ]
        shares += [Share("policy", name) for name in self._policies]
        return [share for share in shares if self._only is None or share.name in self._only]

    def _owner(self, share: Share) -> str | None:
        owner = self.board.lease(share.resource).record.owner
        return owner if owner and self._alive(owner) else None

    def _reserved(self, shares: Iterable[Share], owners: Mapping[Share, str | None]) -> dict[Share, str]:
        """Partitions that are to be merged: the second of them goes to whoever has the first."""
        wanted: dict[Share, str] = {}
        for noted in self.board.requests.values():
            if noted.record.what != "merge":
                continue
            for first in shares:
                owner = owners[first]
                if (first.name, first.partition.name) == (noted.record.name, noted.record.key) and owner is not None:
                    wanted |= {second: owner for second in shares if follows(first, second)} | {first: owner}
        return wanted

    # -------------------------------------------------------------------------------------------------- leases, workers

    async def _claim(self, shares: Sequence[Share], checkpoints: Sequence[Checkpoint]) -> None:
        async def claim(share: Share) -> None:
            noted = self.board.lease(share.resource)
            epoch = max([noted.record.epoch, *(at.epoch for at in checkpoints if _is_of(at, share))]) + 1
            if await self._control.write(control.lease(share.resource, Lease(self.node, epoch), noted.version)):
                self._epochs[share] = epoch

        await asyncio.gather(*(claim(share) for share in shares))
        if shares:
            self.board = await self._control.look()

    async def _release(self, shares: Sequence[Share]) -> None:
        await self._stop(shares)
        for share in shares:
            epoch = self._epochs.pop(share, 0)
            noted = self.board.lease(share.resource)
            await self._control.write(
                control.lease(share.resource, Lease("", max(epoch, noted.record.epoch)), noted.version)
            )

    async def _run_workers(self, shares: Sequence[Share], checkpoints: Sequence[Checkpoint]) -> None:
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
        skips = await self._skips()
        for group in groups:
            bulk = group == builds
            run = {part: self._epochs[share] for share in sorted(group) for part in _parts(share, checkpoints)}
            worker = self._crew.worker(run, skips, self.held, bulk=bulk)
            self.workers |= dict.fromkeys(group, worker)
            try:
                await worker.start()
            except BaseException:
                # Made anew at the next look; whoever starts the app is told at once.
                await self._stop(group)
                raise

    async def _skips(self) -> dict[str, Skips]:
        """What operators have said to pass over, by projection, as far as it was said of the present version."""
        skips: dict[str, set[tuple[str, Position]]] = {}
        for act in (await self._control.acts()).values():
            if act.what == "skip" and act.done and act.version == self._versions.get(act.name):
                skips.setdefault(act.name, set()).add((act.key, act.position))
        return {name: frozenset(each) for name, each in skips.items()}

    async def _stop(self, shares: Iterable[Share]) -> None:
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


def follows(first: Share, second: Share) -> bool:
    """Whether a share is the next partition of the same generation."""
    same = (first.kind, first.name, first.generation) == (second.kind, second.name, second.generation)
    return same and first.kind == "projection" and second.partition.first == first.partition.end


def _parts(share: Share, checkpoints: Sequence[Checkpoint]) -> list[Share]:
    """What a follower each is made for: a build is made of the partitions of its generation."""
    if share.kind != "build":
        return [share]
    return [Share("projection", at.name, at.generation, at.partition) for at in checkpoints if _is_of(at, share)]


def _is_of(at: Checkpoint, share: Share) -> bool:
    whole = (at.name, at.generation) == (share.name, share.generation)
    return whole and (share.kind == "build" or (share.kind == "projection" and at.partition == share.partition))

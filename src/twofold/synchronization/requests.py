"""In charge of what operators ask for: done between two pages by whoever follows for the share, and put on record."""

import asyncio
import logging
from collections.abc import Sequence

from twofold.errors import Conflict, Refused, Unavailable
from twofold.read_store.partition import SLOTS, Partition, partition_named
from twofold.read_store.port import Checkpoint, ReadModel, ReadStore
from twofold.synchronization.cluster_state import ClusterState, ClusterStateStore, OperatorAction, Request
from twofold.synchronization.folding import FoldFailed
from twofold.synchronization.follower import error_text
from twofold.synchronization.projector import Projector
from twofold.synchronization.reactor import Reactor
from twofold.synchronization.supervisor import Supervisor, follows
from twofold.synchronization.work_unit import WorkUnit
from twofold.world import World
from twofold.write_store.port import Slice, WriteStore

log = logging.getLogger(__name__)

_PAGE = 1_000
_WHOLE = ("split", "merge")
"""What concerns a partition as a whole: its key is the name of the partition."""


class Requests:
    """Deals with the requests that concern what this node follows. Each is done again until it is on record as done."""

    def __init__(
        self,
        cluster: ClusterStateStore,
        supervisor: Supervisor,
        write_store: WriteStore,
        read_store: ReadStore,
        world: World,
    ) -> None:
        self._cluster = cluster
        self._supervisor = supervisor
        self._write_store = write_store
        self._read_store = read_store
        self._world = world
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._board = supervisor.board

    def look(self, board: ClusterState, checkpoints: Sequence[Checkpoint]) -> None:
        """Begin with what is new."""
        self._board = board
        for each in [name for name, task in self._under_way.items() if task.done()]:
            del self._under_way[each]
        for name, noted in board.requests.items():
            share = self._share(board, noted.record, checkpoints)
            if share is not None and name not in self._under_way:
                work = self._deal_with(name, noted.record, noted.version, share)
                self._under_way[name] = asyncio.create_task(work, name=f"twofold-request-{name}")

    async def stop(self) -> None:
        """Leave what is under way to whoever follows next."""
        for task in self._under_way.values():
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    def _share(self, board: ClusterState, request: Request, checkpoints: Sequence[Checkpoint]) -> WorkUnit | None:
        """The share of this node that a request is for, if it is one of this node's."""
        generation = _generation(board, request, checkpoints)
        for share in self._supervisor.workers:
            if share.name != request.name:
                continue
            if share.kind == "policy":
                return share
            # Nodes with other code may run beside this one: it may be about theirs.
            if (request.version, share.generation) != (self._supervisor.version(share.name), generation):
                continue
            if share.partition.holds(request.key) if request.what not in _WHOLE else _is_meant(share, request):
                return share
        return None

    async def _deal_with(self, name: str, request: Request, seen: int, share: WorkUnit) -> None:
        try:
            act = await self._done(name, request, seen, share)
            if act is None:
                return
            record = self._cluster.act(name, act)
            if not await self._cluster.write(record, self._cluster.request(name, None, seen)):
                # Whoever asked has given up meanwhile. It is done all the same.
                await self._cluster.write(record)
        except (Conflict, Unavailable) as error:
            log.info("%s of '%s' is tried again: %s", request.what, request.name, error)

    async def _done(self, name: str, request: Request, seen: int, share: WorkUnit) -> OperatorAction | None:
        try:
            return await self._do(name, request, seen, share)
        except (Conflict, Unavailable):
            raise
        except Exception as error:
            # To try that again and again would help nobody, and whoever asked waits for an answer.
            log.exception("%s of '%s' failed", request.what, request.name)
            return self._act(request, share, False, f"It failed: {error_text(error)}")

    async def _do(self, name: str, request: Request, seen: int, share: WorkUnit) -> OperatorAction | None:
        """What was done, for the record; None where that is to be tried again or is on record already."""
        worker = self._supervisor.workers.get(share)
        if worker is None:
            # It has been given up since the look: whoever has it next sees the request.
            return None
        what, key = request.what, request.key
        try:
            if what in _WHOLE and share.partition.name != key:
                # Done before, by a node that could not put it on record.
                outcome = f"It has become {share.partition.name}."
            elif what == "split":
                model = self._model(share)
                halves = share.partition.halves()
                await worker.between_pages(lambda: self._read_store.repartition(model, [share.partition], halves))
                outcome = f"Parted into {halves[0].name} and {halves[1].name}."
            elif what == "merge":
                return await self._merge(request, share)
            elif what == "skip":
                return await self._skip(name, request, seen, share)
            else:
                member = worker.member(share.generation, key)
                do = member.follower.retry if what == "retry" else member.follower.repair
                outcome = await worker.between_pages(lambda: do(key, member.position))
        except (Refused, ValueError) as error:
            return self._act(request, share, False, str(error))
        self._supervisor.wake()
        return self._act(request, share, True, outcome)

    async def _skip(self, name: str, request: Request, seen: int, share: WorkUnit) -> OperatorAction | None:
        """Put on record what is to be passed over, and let it be: what had no record would look like a lost event.

        This is done between two pages, so that no retry takes the event up meanwhile. One of a policy is taken away in
        the same commit. For a projection every follower is told by the board, of this generation and others, on this
        node and others, now or when it begins; whoever has folded it meanwhile makes that good.
        """
        worker = self._supervisor.workers[share]
        key, member = request.key, worker.member(share.generation, request.key)
        follower = member.follower

        async def put_on_record() -> OperatorAction | None:
            at = follower.parked_at(key)
            if at is None:
                return self._act(request, share, False, f"'{key}' of '{request.name}' is not parked.")
            if isinstance(follower, Projector):
                # What can be folded by now is not left out: whoever asks has seen where it stood before.
                now = await follower.retry(key, member.position)
                if follower.parked_at(key) != at:
                    outcome = f"Nothing was passed over, for the event at {at} can be folded by now. {now}"
                    return self._act(request, share, False, outcome)
            outcome = f"The event at {at} is passed over." if at else "The command is not sent any more."
            done = [self._cluster.act(name, self._act(request, share, True, outcome, at))]
            done.append(self._cluster.request(name, None, seen))
            if isinstance(follower, Reactor):
                await follower.skip(key, done)
            elif await self._cluster.write(*done, self._cluster.skip(self._board.skips)):
                self._supervisor.wake()
            return None

        return await worker.between_pages(put_on_record)

    async def _merge(self, request: Request, first: WorkUnit) -> OperatorAction | None:
        seconds = [share for share in self._supervisor.workers if follows(first, share)]
        if not seconds:
            # Whoever has it now is about to give it up; the last partition has none behind it.
            last = first.partition.end == SLOTS
            return self._act(request, first, False, "There is no partition behind this one.") if last else None
        (second,) = seconds
        async with self._supervisor.taken_off(first, second) as (one, other):
            followers = [one.follower, other.follower]
            at = [await follower.open() for follower in followers]
            try:
                for follower, position in zip(followers, at, strict=True):
                    await self._bring_to(follower, position, max(at))
            except FoldFailed as error:
                return self._act(request, first, False, f"The two cannot be brought to one position: {error}.")
            merged = Partition(first.partition.first, second.partition.end)
            await self._read_store.repartition(self._model(first), [first.partition, second.partition], [merged])
        self._supervisor.wake()
        return self._act(request, first, True, f"Merged into {merged.name}.")

    async def _bring_to(self, follower: Projector | Reactor | object, position: int, target: int) -> None:
        """Let a follower take the log up to a position."""
        assert isinstance(follower, Projector)
        while position < target:
            page = await self._write_store.read(follower.query, position, _PAGE)
            events = [each for each in page.events if each.position <= target]
            upto = min(page.upto, target)
            await follower.apply(Slice(events, upto, page.head), position)
            position = upto
            # Stores on this machine answer at once: others on this loop have their turn.
            await self._world.sleep(0)

    def _model(self, share: WorkUnit) -> ReadModel:
        return self._supervisor.model(share)

    def _act(self, request: Request, share: WorkUnit, done: bool, outcome: str, position: int = 0) -> OperatorAction:
        version = self._supervisor.version(share.name)
        read_store = "" if share.kind == "policy" else self._cluster.read_store
        return OperatorAction(
            request.what,
            request.name,
            request.key,
            request.actor,
            self._cluster.now(),
            done,
            outcome,
            share.generation,
            version,
            position,
            read_store,
        )


def _generation(board: ClusterState, request: Request, checkpoints: Sequence[Checkpoint]) -> int:
    """The generation that a request is about: the one that serves, unless a key is parked in another one only."""
    builds = board.generations(request.name).record.builds
    mine = [number for number, each in sorted(builds.items()) if each.version == request.version]
    mine.sort(key=lambda number: builds[number].state != "serving")
    parked = {
        each.generation
        for each in checkpoints
        if each.name == request.name and any(parked.key == request.key for parked in each.progress.parked)
    }
    aside = [number for number in mine if number in parked] if request.what in ("retry", "skip") else []
    return next(iter(aside or mine), 0)


def _is_meant(share: WorkUnit, request: Request) -> bool:
    """Whether a partition is what a request is about, or what it has become by it: parted, or merged with the next."""
    try:
        meant = partition_named(request.key)
    except ValueError:
        return False
    here = share.partition
    if request.what == "split":
        return here == meant or here in _halves(meant)[:1]
    return here == meant or (here.first == meant.first and here.end > meant.end)


def _halves(partition: Partition) -> Sequence[Partition]:
    try:
        return partition.halves()
    except ValueError:
        return ()
